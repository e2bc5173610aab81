"""Color jitter, drawn once for all frames of a clip, and normalization of pixels."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from cvmae.array_types import AnyArray

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of torchvision's grayscale


@dataclasses.dataclass(frozen=True)
class Color:
    """Color jitter, drawn once per clip.

    Attributes:
      brightness, contrast, saturation: strengths as in torchvision: a factor is drawn from 1 ± strength.
      hue: largest rotation of the hue in either direction, in turns.
      probability: of a clip to be jittered.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    probability: float = 1.0


def luma(video: Float[Array, "*axes"], axis: int) -> Array:
    """Weighted sum of the channels, whose axis stays with length 1; elementwise, where a sum over three numbers is a slow loop."""
    red, green, blue = (weight * jax.lax.slice_in_dim(video, c, c + 1, axis=axis) for c, weight in enumerate(LUMA))
    return red + green + blue


def _rotate_hue(video, turns, axis: int = -1):
    """Rotates colors by `turns` (1 is a full circle) around the gray axis; linear, so without the branches of HSV's hexagon."""
    angle = 2 * jnp.pi * turns
    cos, sin = jnp.cos(angle), jnp.sin(angle) / jnp.sqrt(3.0)
    gray = (1 - cos) / 3
    matrix = jnp.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * sin + gray + cos * jnp.eye(3)
    channels = jnp.moveaxis(video, axis, 0)
    rotated = jnp.einsum("dc,c...->d...", matrix, channels, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(rotated, 0, axis)


def jitter_color(key: Key[Array, ""], video: Float[Array, "*axes"], color: Color, axis: int = -1) -> Float[Array, "*axes"]:
    """Jitters brightness, contrast, saturation and hue, in this order, of one clip, float32 in 0..1.

    Args:
      key: of the clip.
      video: [T, H, W, 3], or with the three channels on another axis.
      color: the strengths.
      axis: of the channels.
    """
    keys = jax.random.split(key, 5)

    def factor(key, strength):
        return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)

    changed = jnp.clip(video * factor(keys[0], color.brightness), 0, 1)
    mean = luma(changed, axis).mean()
    changed = jnp.clip((changed - mean) * factor(keys[1], color.contrast) + mean, 0, 1)
    gray = luma(changed, axis)
    changed = jnp.clip((changed - gray) * factor(keys[2], color.saturation) + gray, 0, 1)
    if color.hue:
        turns = jax.random.uniform(keys[3], minval=-color.hue, maxval=color.hue)
        changed = jnp.clip(_rotate_hue(changed, turns, axis), 0, 1)
    if color.probability >= 1:
        return changed
    return jnp.where(jax.random.uniform(keys[4]) < color.probability, changed, video)


def normalize(pixels: Float[AnyArray, "*axes C"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "*axes C"]:
    """Normalizes pixels in 0..1: (pixels - mean) / std per channel, float32.

    Args:
      pixels: [..., 3], or patches [..., P] whose fastest axis within P are the channels.
      mean, std: of the three channels.
    """
    means, stds = (jnp.tile(jnp.asarray(values, jnp.float32), pixels.shape[-1] // 3) for values in (mean, std))
    return (jnp.asarray(pixels) - means) / stds
