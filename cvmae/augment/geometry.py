"""Random and center crops of clips with resizing; what is drawn is the same for all frames of a clip."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

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


def resample(video: Float[AnyArray, "T H0 W0 C"], box: Float[Array, "4"], size: tuple[int, int]) -> Float[Array, "T H W C"]:
    """Cuts a box of `draw_box` out of a clip [T, H0, W0, C] and resizes it, bilinear and antialiased, to [T, H, W, C]."""
    scale = jnp.asarray(size, jnp.float32) / box[2:]
    shape = (video.shape[0], *size, video.shape[-1])
    return jax.image.scale_and_translate(video, shape, (1, 2), scale, -box[:2] * scale, "linear")


def random_crop(key: Key[Array, ""], video: Float[Array, "T H0 W0 C"], crop: Crop) -> Float[Array, "T H W C"]:
    """Crops, resizes and flips one clip at random: [T, H0, W0, C] -> [T, H, W, C]."""
    box_key, flip_key = jax.random.split(key)
    height, width = video.shape[1:3]
    video = resample(video, draw_box(box_key, height, width, crop), crop.size)
    if crop.flip:
        video = jnp.where(jax.random.uniform(flip_key) < crop.flip, video[:, :, ::-1], video)
    return video


def center_crop(video: Float[AnyArray, "T H0 W0 C"], size: tuple[int, int]) -> Float[AnyArray, "T H W C"]:
    """Resizes the largest centered box with the aspect ratio of `size` to it: [T, H0, W0, C] -> [T, H, W, C]."""
    height, width = video.shape[1:3]
    if (height, width) == tuple(size):
        return video
    zoom = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * zoom, size[1] * zoom
    box = jnp.asarray([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width])
    return resample(video, box, size)
