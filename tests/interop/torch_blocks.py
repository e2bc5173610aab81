"""Parts that the torch statements of MAE, mae_st and VideoMAE share; the names of modules make the keys of published files.

The statements are written from the papers and from descriptions in words; they are the smallest code that gives the numbers and
the state-dict keys. `build` gives every parameter a random value, so that no bias is 0.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from cvmae.models.patches import Grid
from tests.interop.hf_models import shake

EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a model; `target_frames` is how many frames mae_st predicts, 0 for all. Images have one frame a tubelet."""

    width: int = 48
    depth: int = 2
    heads: int = 4
    decoder_width: int = 24
    decoder_depth: int = 1
    decoder_heads: int = 3
    mlp_ratio: float = 4.0
    size: int = 32
    patch: int = 8
    frames: int = 4
    tubelet: int = 2
    target_frames: int = 0

    @property
    def grid(self) -> Grid:
        """The grid of patches, for the numbers of tokens."""
        return Grid(self.frames, self.size, self.size, self.tubelet, self.patch)


@dataclasses.dataclass
class Output:
    """The outputs of a pre-training model.

    Attributes:
      hidden: states after each encoder block.
      encoded: the encoder's output, cls first if there is one.
      predictions: for all patches, or of VideoMAE for the masked ones in the order of the grid.
      loss: a scalar.
    """

    hidden: list[torch.Tensor]
    encoded: torch.Tensor
    predictions: torch.Tensor
    loss: torch.Tensor


class PatchEmbed(nn.Module):
    """Tokens [B, N, D] of pixels [B, 3, H, W] or [B, 3, T, H, W]: a convolution whose steps are its kernel's sides."""

    def __init__(self, width: int, *kernel: int):
        super().__init__()
        conv: type[nn.Module] = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
        self.proj = conv(3, width, kernel, kernel)

    def forward(self, pixels):
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention; `kind` is the layout of the projections.

    `fused`: one `qkv` with a bias (MAE). `qv`: one `qkv` without, and biases for query and value apart (VideoMAE). `split`: `q`,
    `k` and `v` (mae_st).
    """

    def __init__(self, width: int, heads: int, kind: str):
        super().__init__()
        self.heads, self.kind = heads, kind
        if kind == "split":
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * width, bias=kind == "fused")
        if kind == "qv":
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def _project(self, x):
        if self.kind == "split":
            return self.q(x), self.k(x), self.v(x)
        y = self.qkv(x)
        if self.kind == "qv":
            y = y + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return y.chunk(3, dim=-1)

    def forward(self, x):
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self._project(x))
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, kind: str):
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn = Attention(width, heads, kind)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def build(model_class, *args, **kwargs):
    """A model of random weights, the same each time."""
    torch.manual_seed(0)
    return shake(model_class(*args, **kwargs), seed=1)


def norm(width: int) -> nn.LayerNorm:
    """A layer norm with the eps of all three families."""
    return nn.LayerNorm(width, eps=EPS)


def token(width: int) -> nn.Parameter:
    """A learned token, [1, 1, width]."""
    return nn.Parameter(torch.zeros(1, 1, width))


def encoder_blocks(sizes: Sizes, kind: str) -> nn.ModuleList:
    """The encoder's blocks; `kind`: see `Attention`."""
    return nn.ModuleList(Block(sizes.width, sizes.heads, sizes.mlp_ratio, kind) for _ in range(sizes.depth))


def decoder_blocks(sizes: Sizes, kind: str) -> nn.ModuleList:
    """The decoder's blocks, which have the encoder's MLP ratio."""
    width = sizes.decoder_width
    return nn.ModuleList(Block(width, sizes.decoder_heads, sizes.mlp_ratio, kind) for _ in range(sizes.decoder_depth))


def states(blocks, x) -> list[torch.Tensor]:
    """The output of each block."""
    out = []
    for block in blocks:
        x = block(x)
        out.append(x)
    return out


def choose(noise, kept: int):
    """Which tokens stay, the `kept` of least noise [B, N]: their indices [B, kept], and the indices that undo the shuffle [B, N]."""
    shuffle = noise.argsort(dim=1)
    return shuffle[:, :kept], shuffle.argsort(dim=1)


def rows(x, index):
    """x[b, index[b, i]] of x [B or 1, N, D]."""
    return x.expand(len(index), -1, -1).take_along_dim(index[..., None], dim=1)


def unshuffle(visible, mask_token, restore):
    """Visible tokens and mask tokens for the rest, [B, N, D] in the order of the grid."""
    hidden = mask_token.expand(len(visible), restore.shape[1] - visible.shape[1], -1)
    return rows(torch.cat([visible, hidden], dim=1), restore)


def prepend(first, x):
    """A first token [1 or B, 1, D] before each row of x [B, N, D]."""
    return torch.cat([first.expand(len(x), -1, -1), x], dim=1)
