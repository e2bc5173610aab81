"""Tubelet patches: the reshape between pixels and tokens, and the reconstruction targets made from them.

Letters: B clips, T frames, H W pixels, C channels, t frames in a tubelet, p patch side, N = (T/t)(H/p)(W/p) tokens,
P = t·p·p·C values of a token. Values inside a token lie in the order (t p p C), which is the order of the targets of
VideoMAE, mae_st and MAE alike.
"""

import dataclasses

import einops
import jax.numpy as jnp
import numpy as np

TARGET_NORMS = ("patch", "patch_channel", "none")


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a clip of T×H×W pixels is cut: `tubelet` frames by `patch`×`patch` pixels a token.

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
            kind = "tubelet" if name == "num_frames" else "patch"
            if unit < 1:
                raise ValueError(f"{kind}={unit} must be at least 1")
            if size < unit or size % unit:
                fix = f"{size // unit * unit} or {-(-size // unit) * unit}" if size > unit else f"{unit}"
                raise ValueError(f"{name}={size} is not a multiple of the {kind} size {unit}: take {name}={fix}")

    @property
    def time_patches(self) -> int:
        """T' = T/t, the number of tubelets along time."""
        return self.num_frames // self.tubelet

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def spatial_patches(self) -> int:
        """S, the spatial positions of one slot."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """N = T'·S."""
        return self.time_patches * self.spatial_patches

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T', H/p, W/p)."""
        return self.time_patches, self.rows, self.columns

    def patch_dim(self, channels: int = 3) -> int:
        """P, the number of values of one token."""
        return self.tubelet * self.patch**2 * channels


def patchify(video, tubelet: int, patch: int):
    """Cuts [B, T, H, W, C] into tokens [B, N, P], time-major, then rows, then columns."""
    return einops.rearrange(
        video,
        "b (t dt) (h dh) (w dw) c -> b (t h w) (dt dh dw c)",
        dt=tubelet,
        dh=patch,
        dw=patch,
    )


def unpatchify(tokens, grid: Grid):
    """Lays tokens [B, N, P] back out as [B, T, H, W, C]; the inverse of `patchify`.

    A P that holds fewer frames than the tubelet (mae_st predicts one frame of two) gives a clip of that many frames.
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
    """The frames that are predicted: `count` of `num_frames`, int [count].

    Matches mae_st, which truncates linspace(0, T-1, count): 8 of 16 are 0 2 4 6 8 10 12 15. `count` = 0 means all.
    """
    if not count:
        return np.arange(num_frames)
    return np.linspace(0, num_frames - 1, count).astype(np.int64)


def normalize_targets(patches, norm: str, channels: int = 3):
    """Normalizes target patches [..., P]; returns (targets, mean, deviation), each float32 and broadcastable to [..., P].

    `patch`: over all values of the patch, unbiased variance, divided by sqrt(var + 1e-6) (MAE, mae_st).
    `patch_channel`: per channel over (t p p), unbiased variance, divided by sqrt(var) + 1e-6 (VideoMAE).
    `none`: unchanged. A prediction x comes back to pixels as x · deviation + mean.

    Raises:
      ValueError: `norm` is none of the three.
    """
    patches = patches.astype(jnp.float32)
    if norm == "none":
        return patches, jnp.zeros_like(patches[..., :1]), jnp.ones_like(patches[..., :1])
    if norm == "patch":
        mean = patches.mean(-1, keepdims=True)
        deviation = jnp.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    elif norm == "patch_channel":
        by_channel = einops.rearrange(patches, "... (x c) -> ... x c", c=channels)
        count = by_channel.shape[-2]
        mean = by_channel.mean(-2)
        deviation = jnp.sqrt(by_channel.var(-2, ddof=1)) + 1e-6
        mean, deviation = (einops.repeat(a, "... c -> ... (x c)", x=count) for a in (mean, deviation))
    else:
        raise ValueError(f"target_norm is {norm!r}; expected one of {', '.join(TARGET_NORMS)}")
    return (patches - mean) / deviation, mean, deviation
