"""Image MAE in plain torch, pre-training and fine-tuned, from its description in words; keys as in its published files."""

import torch
from torch import nn

from tests.interop import torch_blocks as parts
from tests.interop.torch_blocks import Output, Sizes
from tests.models.mae_st_torch import loss


def sincos(side: int, width: int):
    """The fixed table [1, 1 + side², width], a row of zeros first: columns in the first half of the width, rows in the second."""
    omega = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angle = torch.arange(side)[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    table = torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)], dim=1)
    return torch.cat([torch.zeros(1, width), table.float()])[None]


def fixed(side: int, width: int) -> nn.Parameter:
    """That table as files hold it: a parameter that is not trained."""
    return nn.Parameter(sincos(side, width), requires_grad=False)


class MaskedAutoencoder(nn.Module):
    """Pre-training."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width, inner, side = sizes.width, sizes.decoder_width, sizes.size // sizes.patch
        self.sizes = sizes
        self.cls_token, self.pos_embed = parts.token(width), fixed(side, width)
        self.patch_embed = parts.PatchEmbed(width, sizes.patch, sizes.patch)
        self.blocks, self.norm = parts.encoder_blocks(sizes, "fused"), parts.norm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token, self.decoder_pos_embed = parts.token(inner), fixed(side, inner)
        self.decoder_blocks, self.decoder_norm = parts.decoder_blocks(sizes, "fused"), parts.norm(inner)
        self.decoder_pred = nn.Linear(inner, sizes.patch**2 * 3)

    def forward(self, image, noise, kept: int) -> Output:
        """Of image [B, 3, H, W], normalized, the `kept` patches of least noise [B, N] are seen."""
        keep, restore = parts.choose(noise, kept)
        x = parts.rows(self.patch_embed(image) + self.pos_embed[:, 1:], keep)
        hidden = parts.states(self.blocks, parts.prepend(self.cls_token + self.pos_embed[:, :1], x))
        encoded = self.norm(hidden[-1])
        x = self.decoder_embed(encoded)
        x = parts.prepend(x[:, :1], parts.unshuffle(x[:, 1:], self.mask_token, restore)) + self.decoder_pos_embed
        x = self.decoder_norm(parts.states(self.decoder_blocks, x)[-1])
        predictions = self.decoder_pred(x)[:, 1:]
        return Output(hidden, encoded, predictions, loss(image[:, :, None], predictions, restore, kept, 1, 1, self.sizes.patch))


class Classifier(nn.Module):
    """Fine-tuned; `pool` is `mean`, over patch tokens, or `first`, cls."""

    def __init__(self, sizes: Sizes, classes: int, pool: str):
        super().__init__()
        self.pool = pool
        self.cls_token = parts.token(sizes.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid.spatial_patches, sizes.width))
        self.patch_embed = parts.PatchEmbed(sizes.width, sizes.patch, sizes.patch)
        self.blocks = parts.encoder_blocks(sizes, "fused")
        self.add_module("fc_norm" if pool == "mean" else "norm", parts.norm(sizes.width))
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, image):
        """Logits of image [B, 3, H, W], normalized."""
        x = parts.states(self.blocks, parts.prepend(self.cls_token, self.patch_embed(image)) + self.pos_embed)[-1]
        return self.head(self.fc_norm(x[:, 1:].mean(1)) if self.pool == "mean" else self.norm(x)[:, 0])
