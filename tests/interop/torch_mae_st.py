"""mae_st in plain torch, pre-training and fine-tuned, from its description in words; keys as in its published files."""

import torch
from torch import nn

from tests.interop import torch_blocks as parts
from tests.interop.torch_blocks import Output, Sizes
from tests.models.mae_st_torch import loss


def add_positions(model: nn.Module, prefix: str, sizes: Sizes, width: int, separable: bool, cls: bool):
    """Gives a model the cls token and learned tables of its encoder (prefix empty) or of its decoder (`decoder_`)."""
    lengths = {"cls_token": 1} if cls else {}
    if separable:
        lengths |= {"pos_embed_spatial": sizes.grid.spatial_patches, "pos_embed_temporal": sizes.grid.time_patches}
        lengths |= {"pos_embed_class": 1} if cls else {}
    else:
        lengths["pos_embed"] = cls + sizes.grid.tokens
    for name, length in lengths.items():
        model.register_parameter(prefix + name, nn.Parameter(torch.zeros(1, length, width)))


def positions(model: nn.Module, prefix: str = ""):
    """The table over all tokens, [1, N, D], and the first token with its position: [1, 1, D], or None."""
    of = dict(model.named_parameters(recurse=False))
    cls, full = of.get(f"{prefix}cls_token"), of.get(f"{prefix}pos_embed")
    if full is not None:
        return (full, None) if cls is None else (full[:, 1:], cls + full[:, :1])
    space, time = of[f"{prefix}pos_embed_spatial"], of[f"{prefix}pos_embed_temporal"]
    table = space.repeat(1, time.shape[1], 1) + time.repeat_interleave(space.shape[1], dim=1)
    return table, None if cls is None else cls + of[f"{prefix}pos_embed_class"]


class MaskedAutoencoder(nn.Module):
    """Pre-training; `separable` tables over space and time or one over both, with a cls token or without."""

    def __init__(self, sizes: Sizes, separable: bool = True, cls: bool = True):
        super().__init__()
        width, inner = sizes.width, sizes.decoder_width
        self.sizes = sizes
        add_positions(self, "", sizes, width, separable, cls)
        self.patch_embed = parts.PatchEmbed(width, sizes.tubelet, sizes.patch, sizes.patch)
        self.blocks, self.norm = parts.encoder_blocks(sizes, "split"), parts.norm(width)
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = parts.token(inner)
        add_positions(self, "decoder_", sizes, inner, separable, cls)
        self.decoder_blocks, self.decoder_norm = parts.decoder_blocks(sizes, "split"), parts.norm(inner)
        predicted = sizes.tubelet * (sizes.target_frames or sizes.frames) // sizes.frames
        self.decoder_pred = nn.Linear(inner, predicted * sizes.patch**2 * 3)

    def forward(self, video, noise, kept: int) -> Output:
        """Of video [B, 3, T, H, W], normalized, the `kept` tubelets of least noise [B, N] are seen."""
        sizes = self.sizes
        keep, restore = parts.choose(noise, kept)
        table, cls = positions(self)
        x = parts.rows(self.patch_embed(video), keep) + parts.rows(table, keep)
        hidden = parts.states(self.blocks, x if cls is None else parts.prepend(cls, x))
        encoded = self.norm(hidden[-1])
        predictions = self._decode(encoded if cls is None else encoded[:, 1:], restore)
        count = sizes.target_frames or sizes.frames
        return Output(hidden, encoded, predictions, loss(video, predictions, restore, kept, count, sizes.tubelet, sizes.patch))

    def _decode(self, latent, restore):
        table, cls = positions(self, "decoder_")
        x = parts.unshuffle(self.decoder_embed(latent), self.mask_token, restore) + table
        x = parts.states(self.decoder_blocks, x if cls is None else parts.prepend(cls, x))[-1]
        x = self.decoder_pred(self.decoder_norm(x))
        return x if cls is None else x[:, 1:]


class Classifier(nn.Module):
    """Fine-tuned: with separable tables and a cls token, which pooling leaves out."""

    def __init__(self, sizes: Sizes, classes: int):
        super().__init__()
        add_positions(self, "", sizes, sizes.width, separable=True, cls=True)
        self.patch_embed = parts.PatchEmbed(sizes.width, sizes.tubelet, sizes.patch, sizes.patch)
        self.blocks, self.norm = parts.encoder_blocks(sizes, "split"), parts.norm(sizes.width)
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, video):
        """Logits of video [B, 3, T, H, W], normalized."""
        table, cls = positions(self)
        x = parts.states(self.blocks, parts.prepend(cls, self.patch_embed(video) + table))[-1]
        return self.head(self.norm(x[:, 1:].mean(1)))
