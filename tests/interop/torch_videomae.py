"""VideoMAE in plain torch, pre-training and fine-tuned, from its description in words; keys as in its published files."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.interop import torch_blocks as parts
from tests.interop.torch_blocks import Output, Sizes
from tests.models.mae_st_torch import patchify

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sinusoid(length: int, width: int):
    """The fixed table [length, width]: sine in even columns, cosine in odd ones, over the flat index of a token."""
    omega = 1 / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length)[:, None] * omega
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def targets(video, tubelet: int, patch: int):
    """The decoder's targets, [B, N, P]: pixels in 0..1, of each patch and channel with mean 0 and standard deviation 1."""
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (MEAN, STD))
    x = patchify(video * std + mean, tubelet, patch).unflatten(-1, (-1, 3))
    return ((x - x.mean(-2, keepdim=True)) / (x.var(-2, keepdim=True).sqrt() + 1e-6)).flatten(2)


def pick(x, which):
    """The tokens of x [B, N, D] where `which` [B, N] is true, as many in each sample."""
    return x[which].unflatten(0, (len(x), -1))


class Encoder(nn.Module):
    """The first half of pre-training."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.patch_embed = parts.PatchEmbed(sizes.width, sizes.tubelet, sizes.patch, sizes.patch)
        self.blocks, self.norm = parts.encoder_blocks(sizes, "qv"), parts.norm(sizes.width)

    def forward(self, video, hidden):
        x = self.patch_embed(video)
        return parts.states(self.blocks, pick(x + sinusoid(*x.shape[1:]), ~hidden))


class Decoder(nn.Module):
    """The second half: it predicts the last `count` tokens."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.blocks, self.norm = parts.decoder_blocks(sizes, "qv"), parts.norm(sizes.decoder_width)
        self.head = nn.Linear(sizes.decoder_width, sizes.tubelet * sizes.patch**2 * 3)

    def forward(self, x, count: int):
        return self.head(self.norm(parts.states(self.blocks, x)[-1][:, -count:]))


class MaskedAutoencoder(nn.Module):
    """Pre-training."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        self.encoder_to_decoder = nn.Linear(sizes.width, sizes.decoder_width, bias=False)
        self.mask_token = parts.token(sizes.decoder_width)

    def forward(self, video, hidden) -> Output:
        """Masks the tokens `hidden`, bool [B, N], of video [B, 3, T, H, W], normalized with ImageNet's mean and standard deviation."""
        blocks = self.encoder(video, hidden)
        encoded = self.encoder.norm(blocks[-1])
        table = sinusoid(hidden.shape[1], self.sizes.decoder_width).expand(len(video), -1, -1)
        visible = self.encoder_to_decoder(encoded) + pick(table, ~hidden)
        masked = self.mask_token + pick(table, hidden)
        predictions = self.decoder(torch.cat([visible, masked], dim=1), masked.shape[1])
        wanted = pick(targets(video, self.sizes.tubelet, self.sizes.patch), hidden)
        return Output(blocks, encoded, predictions, F.mse_loss(predictions, wanted))


class Classifier(nn.Module):
    """Fine-tuned: the mean over all tokens, a norm, a head."""

    def __init__(self, sizes: Sizes, classes: int):
        super().__init__()
        self.patch_embed = parts.PatchEmbed(sizes.width, sizes.tubelet, sizes.patch, sizes.patch)
        self.blocks, self.fc_norm = parts.encoder_blocks(sizes, "qv"), parts.norm(sizes.width)
        self.head = nn.Linear(sizes.width, classes)

    def forward(self, video):
        """Logits of video [B, 3, T, H, W], normalized."""
        x = self.patch_embed(video)
        return self.head(self.fc_norm(parts.states(self.blocks, x + sinusoid(*x.shape[1:]))[-1].mean(1)))
