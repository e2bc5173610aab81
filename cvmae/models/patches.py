"""Tubelet patches: the reshape between pixels and tokens, and reconstruction targets.

Letters: B clips, T frames, H W pixels, C channels, t frames in a tubelet, p patch side, N = (T/t)(H/p)(W/p) tokens,
P = t·p·p·C values of a token. Values inside a token lie in the order (t p p C), which is the order of the targets of
VideoMAE, mae_st and MAE alike.
"""

import dataclasses
from typing import Literal, get_args

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from cvmae.array_types import AnyArray
from cvmae.models.choices import check_choice

TargetNorm = Literal["patch", "patch_channel", "none"]
TARGET_NORMS = get_args(TargetNorm)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tokens of a clip of T×H×W pixels, each of `tubelet` frames by `patch`×`patch` pixels.

    Raises:
      ValueError: a side is not a multiple of the patch; the message names which.
    """

    num_frames: int
    height: int
    width: int
    tubelet: int
    patch: int

    def __post_init__(self):
        for name, size, unit in (
            ("num_frames", self.num_frames, self.tubelet),
            ("height", self.height, self.patch),
            ("width", self.width, self.patch),
        ):
            unit_name = "tubelet" if name == "num_frames" else "patch"
            if unit < 1:
                raise ValueError(f"{unit_name}={unit} must be at least 1")
            if size < unit or size % unit:
                fix = f"{size // unit * unit} or {-(-size // unit) * unit}" if size > unit else f"{unit}"
                raise ValueError(f"{name}={size} is not a multiple of the {unit_name} size {unit}: take {name}={fix}")

    @property
    def time_patches(self) -> int:
        """T' = T/t, the number of tubelets along time."""
        return self.num_frames // self.tubelet

    @property
    def rows(self) -> int:
        """H/p, the rows of spatial patches."""
        return self.height // self.patch

    @property
    def columns(self) -> int:
        """W/p, the columns of spatial patches."""
        return self.width // self.patch

    @property
    def spatial_patches(self) -> int:
        """S = (H/p)(W/p), the number of spatial patches of one time patch."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """N = T'·S, the number of tokens."""
        return self.time_patches * self.spatial_patches

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T', H/p, W/p)."""
        return self.time_patches, self.rows, self.columns

    def patch_dim(self, channels: int = 3) -> int:
        """P, the number of values of one token."""
        return self.tubelet * self.patch**2 * channels


def patchify(video: Num[AnyArray, "B T H W C"], tubelet: int, patch: int) -> Num[AnyArray, "B N P"]:
    """Cuts clips into tokens, time-major, then rows, then columns."""
    return einops.rearrange(
        video,
        "b (t dt) (h dh) (w dw) c -> b (t h w) (dt dh dw c)",
        dt=tubelet,
        dh=patch,
        dw=patch,
    )


def as_patches(video: Num[AnyArray, "B T H W C"] | Num[AnyArray, "B N P"], tubelet: int, patch: int) -> Num[AnyArray, "B N P"]:
    """Cuts clips into tokens as `patchify` does; patches are returned as they are."""
    return video if video.ndim == 3 else patchify(video, tubelet, patch)


def patches_of(video: Num[AnyArray, "B T H W C"] | Num[AnyArray, "B N P"], grid: Grid) -> Num[AnyArray, "B N P"]:
    """Cuts clips of a grid into tokens; patches are returned as they are.

    Raises:
      ValueError: the clips have another number of frames or size than the grid, or the patches another number.
    """
    shape = (grid.num_frames, grid.height, grid.width)
    if video.ndim == 3 and video.shape[1] != grid.tokens:
        raise ValueError(f"clips are of {video.shape[1]} patches; this encoder takes {grid.tokens}")
    if video.ndim == 5 and video.shape[1:4] != shape:
        frames, height, width = video.shape[1:4]
        clips, taken = (f"{t} frames of {h}x{w} pixels" for t, h, w in (video.shape[1:4], shape))
        hints = f"hints=cvmae.interop.ModelHints(num_frames={frames}, size=({height}, {width}))"
        raise ValueError(
            f"clips are of {clips}; this encoder takes {taken}: cut them so, or load it for others by cvmae.load {hints}"
        )
    return as_patches(video, grid.tubelet, grid.patch)


def unpatchify(tokens: Num[AnyArray, "B N P"], grid: Grid) -> Num[AnyArray, "B T H W 3"]:
    """Puts tokens back together as clips; the inverse of `patchify`.

    A P of fewer frames than the tubelet has (mae_st predicts one frame of two) gives clips of that many frames.
    """
    return einops.rearrange(
        tokens,
        "b (t h w) (dt dh dw c) -> b (t dt) (h dh) (w dw) c",
        t=grid.time_patches,
        h=grid.rows,
        w=grid.columns,
        dh=grid.patch,
        dw=grid.patch,
        c=3,
    )


def target_frames(num_frames: int, count: int) -> np.ndarray:
    """Indices of the frames that are predicted, `count` of `num_frames`, int [count]; `count` = 0 means all.

    Matches mae_st, which truncates linspace(0, T-1, count): 8 of 16 are 0 2 4 6 8 10 12 15.
    """
    if not count:
        return np.arange(num_frames)
    return np.linspace(0, num_frames - 1, count).astype(np.int64)


def normalize_targets(
    patches: Num[AnyArray, "*B P"], norm: str, channels: int = 3
) -> tuple[Float[Array, "*B P"], Float[Array, "*B _"], Float[Array, "*B _"]]:
    """Normalizes target patches; returns (targets, mean, standard deviation), float32, the last two broadcastable to [*B, P].

    `patch`: over all values of the patch, unbiased variance, divided by sqrt(var + 1e-6) (MAE, mae_st).
    `patch_channel`: per channel over (t p p), unbiased variance, divided by sqrt(var) + 1e-6 (VideoMAE).
    `none`: unchanged. A prediction x comes back to pixels as x · std + mean.

    Raises:
      ValueError: `norm` is not one of TARGET_NORMS.
    """
    check_choice("target_norm", norm, TargetNorm)
    patches = jnp.asarray(patches, jnp.float32)
    if norm == "none":
        return patches, jnp.zeros_like(patches[..., :1]), jnp.ones_like(patches[..., :1])
    if norm == "patch":
        mean = patches.mean(-1, keepdims=True)
        std = jnp.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    else:
        by_channel = einops.rearrange(patches, "... (x c) -> ... x c", c=channels)
        count = by_channel.shape[-2]
        mean = by_channel.mean(-2)
        std = jnp.sqrt(by_channel.var(-2, ddof=1)) + 1e-6
        mean, std = (einops.repeat(a, "... c -> ... (x c)", x=count) for a in (mean, std))
    return (patches - mean) / std, mean, std
