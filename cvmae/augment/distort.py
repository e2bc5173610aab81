"""Grayscale, Gaussian blur and solarization of a clip, each with a probability of its own, drawn once for all frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from cvmae.augment.color import luma

SIGMA = (0.1, 2.0)  # range of the blur's standard deviation in pixels, drawn uniformly (SimCLR, BYOL)
SPAN = 0.1  # width of the blur's kernel, as a fraction of the side (SimCLR)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Probabilities of a clip to be changed, in this order; SimCLR has 0.2, 0.5 and 0, BYOL's second view 0.2, 0.1 and 0.2.

    Attributes:
      grayscale: to lose its colors.
      blur: to be blurred by a Gaussian of a standard deviation drawn from 0.1 to 2 pixels, whose kernel spans a tenth of a side.
      solarize: to have values from 0.5 on inverted.
    """

    grayscale: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0


def to_gray(video: Float[Array, "*axes"], axis: int = -1) -> Float[Array, "*axes"]:
    """Replaces the three channels on `axis` by their luma (ITU-R BT.601)."""
    return jnp.broadcast_to(luma(video, axis), video.shape)


def blur_weights(sigma: Float[Array, ""], size: int) -> Float[Array, "{size} {size}"]:
    """Weights of a Gaussian blur along an axis of `size` pixels, as a matrix to multiply with, float32.

    The kernel is cut off at a radius of 5 % of the axis, at least one pixel, and pixels beyond an edge are those mirrored at the
    center of the edge's pixel (torchvision's `reflect`).
    """
    radius = min(max(1, round(SPAN * size / 2)), size - 1)
    offsets = np.arange(-radius, radius + 1)
    sources = np.abs(np.arange(size)[:, None] + offsets)
    sources = np.where(sources < size, sources, 2 * (size - 1) - sources)
    kernel = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    return jnp.einsum("yos,o->ys", np.eye(size, dtype=np.float32)[sources], kernel / kernel.sum())


def blur(planes: Float[Array, "H C T W"], sigma: Float[Array, ""]) -> Float[Array, "H C T W"]:
    """Blurs every frame of a clip of `geometry.to_planes` by a Gaussian of a standard deviation of `sigma` pixels."""
    rows, columns = (blur_weights(sigma, planes.shape[axis]) for axis in (0, 3))
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("hctw,yh,xw->yctx", planes, rows, columns, precision=highest)


def distort(key: Key[Array, ""], planes: Float[Array, "H 3 T W"], distortion: Distortion) -> Float[Array, "H 3 T W"]:
    """Distorts one clip of `geometry.to_planes`, float32 in 0..1; what has probability 0 is not computed.

    Args:
      key: of the clip.
      planes: the clip.
      distortion: the probabilities.
    """
    keys = jax.random.split(key, 4)
    sigma = jax.random.uniform(keys[3], minval=SIGMA[0], maxval=SIGMA[1])
    changes = (
        (distortion.grayscale, lambda x: to_gray(x, axis=1)),
        (distortion.blur, lambda x: blur(x, sigma)),
        (distortion.solarize, lambda x: jnp.where(x < 0.5, x, 1 - x)),
    )
    for draw, (probability, change) in zip(keys, changes):
        if probability:
            planes = jnp.where(jax.random.uniform(draw) < probability, change(planes), planes)
    return planes
