"""Random and center crops of clips with resizing; what is drawn is the same for all frames of a clip."""

import dataclasses
import functools

import einops
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, Num

from cvmae.array_types import AnyArray


@dataclasses.dataclass(frozen=True)
class Crop:
    """Random resized crop, drawn once per clip.

    Attributes:
      size: (H, W) of the result, pixels.
      scale: range of the area, as a fraction of the frame's, drawn uniformly.
      ratio: range of width over height, drawn uniformly in its logarithm.
      flip: probability of a horizontal flip; 0 where labels name left and right (Something-Something).
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0


def draw_box(key: Key[Array, ""], height: int, width: int, crop: Crop) -> Float[Array, "4"]:
    """Draws a box inside a frame of `height`×`width` pixels: float32 [4], its top, left, height and width in pixels.

    torchvision draws again when a box does not fit; a fixed program cannot, so a side that is too long is cut to the frame.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, minval=crop.scale[0], maxval=crop.scale[1])
    low, high = jnp.log(jnp.asarray(crop.ratio))
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    box_width = jnp.minimum(jnp.sqrt(area * ratio), width)
    box_height = jnp.minimum(jnp.sqrt(area / ratio), height)
    top = jax.random.uniform(top_key) * (height - box_height)
    left = jax.random.uniform(left_key) * (width - box_width)
    return jnp.stack([top, left, box_height, box_width])


def resize_weights(start: Float[Array, ""], length: Float[Array, ""], count: int, size: int) -> Float[Array, "{count} {size}"]:
    """Bilinear antialiased weights, float32 [count, size], of an axis of `count` pixels in `size` pixels that cover a part of it.

    They are those of `jax.image.scale_and_translate`: a triangle as wide as a pixel of the result, at least one pixel of the axis.
    A pixel whose center lies outside the axis has no weights.

    Args:
      start: where the part begins, in pixels of the axis.
      length: of the part, in pixels of the axis.
      count: number of pixels of the axis.
      size: number of pixels of the result.
    """
    step = length / size
    centers = start + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step - 0.5
    distance = jnp.abs(jnp.arange(count, dtype=jnp.float32)[:, None] - centers) / jnp.maximum(step, 1.0)
    weights = jnp.maximum(1 - distance, 0)
    inside = (centers >= -0.5) & (centers <= count - 0.5)
    return jnp.where(inside, weights / jnp.where(inside, weights.sum(0), 1), 0)


def box_weights(
    box: Float[Array, "4"], height: int, width: int, size: tuple[int, int]
) -> tuple[Float[Array, "{height} H"], Float[Array, "{width} W"]]:
    """`resize_weights` of the rows and the columns of a box of `draw_box` in a frame of `height`×`width` pixels."""
    return resize_weights(box[0], box[2], height, size[0]), resize_weights(box[1], box[3], width, size[1])


def draw_weights(
    key: Key[Array, ""], height: int, width: int, crop: Crop
) -> tuple[Float[Array, "{height} H"], Float[Array, "{width} W"]]:
    """Draws a crop and a flip, as the weights of `box_weights`: flipped columns have their weights in reverse order."""
    box_key, flip_key = jax.random.split(key)
    rows, columns = box_weights(draw_box(box_key, height, width, crop), height, width, crop.size)
    if crop.flip:
        columns = jnp.where(jax.random.uniform(flip_key) < crop.flip, columns[:, ::-1], columns)
    return rows, columns


def to_planes(video: Num[AnyArray, "T H W C"]) -> Num[AnyArray, "H C T W"]:
    """Puts rows first and columns last, so that a resize is two matrix products without a transpose between them."""
    return video.transpose(1, 3, 0, 2)


def from_planes(planes: Num[Array, "*V H C T W"]) -> Num[Array, "*V T H W C"]:
    """The inverse of `to_planes`, of any number of clips."""
    return jnp.moveaxis(planes, (-2, -4, -1, -3), (-4, -3, -2, -1))


def planes_to_patches(planes: Num[Array, "B H C T W"], tubelet: int, patch: int) -> Num[Array, "B N P"]:
    """Cuts clips of `to_planes` into tokens, time-major, then rows, then columns, with values in the order (t p p C)."""
    on_tpu, elsewhere = (functools.partial(cut, tubelet=tubelet, patch=patch) for cut in (cut_with_clips_last, _cut))
    return jax.lax.platform_dependent(planes, tpu=on_tpu, default=elsewhere)


def _cut(planes, tubelet, patch):
    pattern = "b (h dh) c (t dt) (w dw) -> b (t h w) (dt dh dw c)"
    return einops.rearrange(planes, pattern, dt=tubelet, dh=patch, dw=patch)


def cut_with_clips_last(planes: Num[Array, "B H C T W"], tubelet: int, patch: int) -> Num[Array, "B N P"]:
    """Cuts clips as `planes_to_patches` does, by three transposes, which take a TPU half of the time of one.

    The last axis lies in a TPU's lanes, where a column of patches is no multiple of anything. So clips and time patches take its
    place first; then whole registers move; and the values of a token take the lanes last. Without the barriers XLA would make one
    transpose of all three.
    """
    clips, barrier = planes.shape[0], jax.lax.optimization_barrier
    last = barrier(einops.rearrange(planes, "b y c (t dt) x -> y c dt x (b t)", dt=tubelet))
    cut = barrier(einops.rearrange(last, "(h dh) c dt (w dw) n -> h w (dt dh dw c) n", dh=patch, dw=patch))
    return einops.rearrange(cut, "h w k (b t) -> b (t h w) k", b=clips)


def resize_planes(
    planes: Num[AnyArray, "H0 C T W0"], rows: Float[Array, "V H0 H"], columns: Float[Array, "V W0 W"], dtype=jnp.float32
) -> Float[Array, "V H C T W"]:
    """Resizes a clip to V clips by the weights of `resize_weights`, as two matrix products.

    In bfloat16 pixels from 0 to 255 are exact, and are centered before they are multiplied. Weights and what comes between the
    products are rounded, sums are float32: on noise the result differs from float32's by less than 0.15 levels of 255 in the root mean square
    and by less than 1 at most; the rounding of a decoder to whole levels is 0.29 and 0.5.

    Args:
      planes: uint8, or floating point; from 0 to 255 if the products are in bfloat16.
      rows, columns: of V crops.
      dtype: of the products: float32, or bfloat16 for crops that lie inside the frame.

    Returns:
      float32, in the unit of the pixels.
    """
    middle = 0 if dtype == jnp.float32 else 128
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    einsum = functools.partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    pixels = (planes.astype(jnp.float32) - middle).astype(dtype)
    resized = einsum("hctw,vhy->vyctw", pixels, rows.astype(dtype)).astype(dtype)
    return einsum("vyctw,vwx->vyctx", resized, columns.astype(dtype)) + middle


def resample(video: Num[AnyArray, "T H0 W0 C"], box: Float[Array, "4"], size: tuple[int, int]) -> Float[Array, "T H W C"]:
    """Cuts a box of `draw_box` out of a clip [T, H0, W0, C] and resizes it, bilinear and antialiased, to [T, H, W, C], float32."""
    return _resize(video, box_weights(box, video.shape[1], video.shape[2], size))


def random_crop(key: Key[Array, ""], video: Num[AnyArray, "T H0 W0 C"], crop: Crop) -> Float[Array, "T H W C"]:
    """Crops, resizes and flips one clip at random: [T, H0, W0, C] -> [T, H, W, C], float32."""
    return _resize(video, draw_weights(key, video.shape[1], video.shape[2], crop))


def _resize(video, weights):
    rows, columns = weights
    return from_planes(resize_planes(to_planes(video), rows[None], columns[None])[0])


def center_box(height: int, width: int, size: tuple[int, int]) -> Float[Array, "4"]:
    """The largest centered box with the aspect ratio of `size` in a frame, as `draw_box` gives it."""
    zoom = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * zoom, size[1] * zoom
    return jnp.asarray([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width])


def center_weights(
    height: int, width: int, size: tuple[int, int]
) -> tuple[Float[Array, "{height} H"], Float[Array, "{width} W"]]:
    """`resize_weights` of the rows and the columns of `center_box`."""
    return box_weights(center_box(height, width, size), height, width, size)


def center_crop(video: Float[AnyArray, "T H0 W0 C"], size: tuple[int, int]) -> Float[AnyArray, "T H W C"]:
    """Resizes the largest centered box with the aspect ratio of `size` to it: [T, H0, W0, C] -> [T, H, W, C]."""
    height, width = video.shape[1:3]
    if (height, width) == tuple(size):
        return video
    return resample(video, center_box(height, width, size), size)
