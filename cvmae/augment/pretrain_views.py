"""Views of a clip for pre-training: v, v⁺, the time-reversed clip, and the sampled frames (METHOD section 2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from cvmae.augment.color import Color, jitter_color
from cvmae.augment.geometry import Crop, draw_weights, from_planes, resize_planes, to_planes


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """Augmentation of a clip for pre-training (METHOD section 2).

    Attributes:
      crop: of v, which has no other augmentation.
      plus: crop of v⁺ and of the time-reversed clip.
      color: jitter of v⁺ and of the time-reversed clip.
      views: 1 (v), 2 (v, v⁺) or 3 (v, v⁺ and the time-reversed clip).
      image_crop: `shared` takes the sampled frames from v, so that their tokens have the same positions; `independent` draws
        another crop.
      dtype: of the products that resize, see `resize_planes`.

    Raises:
      ValueError: image_crop is neither.
    """

    crop: Crop
    plus: Crop
    color: Color
    views: int = 2
    image_crop: str = "shared"
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.image_crop not in ("shared", "independent"):
            raise ValueError(f"image_branch.crop is {self.image_crop!r}; expected 'shared' or 'independent'")


def make_planes(
    key: Key[Array, ""], video: UInt8[Array, "T H0 W0 3"], frame_index: Int[Array, " F"], spec: ViewSpec, image: bool
) -> tuple[list[Float[Array, "H 3 T W"]], Float[Array, "H 3 F W"] | None]:
    """Makes the views of one clip, and the images of its sampled frames, in the order of axes of `geometry.to_planes`.

    Args:
      key: the key of the sample.
      video: uint8 [T, H0, W0, 3].
      frame_index: int32 [F], indices of the sampled frames in the clip.
      spec: the augmentation.
      image: True to return the sampled frames too.

    Returns:
      V views, float32 [H, 3, T, W] in 0..1, and frames, float32 [H, 3, F, W] in 0..1, or None.
    """
    crop_key, plus_key, color_key, reverse_key, image_key = jax.random.split(key, 5)
    reverse_crop_key, reverse_color_key = jax.random.split(reverse_key)
    height, width = video.shape[1:3]
    crops = ((crop_key, spec.crop), (plus_key, spec.plus), (reverse_crop_key, spec.plus))[: spec.views]
    rows, columns = (jnp.stack(weights) for weights in zip(*(draw_weights(k, height, width, crop) for k, crop in crops)))
    planes = to_planes(video)
    resized = resize_planes(planes, rows, columns, spec.dtype) / 255
    views = [resized[0]]
    views += [jitter_color(k, view, spec.color, axis=1) for k, view in zip((color_key, reverse_color_key), resized[1:])]
    if spec.views > 2:
        views[2] = views[2][:, :, ::-1]
    frames = None
    if image and spec.image_crop == "shared":
        frames = views[0][:, :, frame_index]
    elif image:
        rows, columns = draw_weights(image_key, height, width, spec.crop)
        frames = resize_planes(planes[:, :, frame_index], rows[None], columns[None], spec.dtype)[0] / 255
    return views, frames


def make_views(
    key: Key[Array, ""], video: UInt8[Array, "T H0 W0 3"], frame_index: Int[Array, " F"], spec: ViewSpec, image: bool
) -> tuple[Float[Array, "V T H W 3"], Float[Array, "F H W 3"] | None]:
    """Makes views, float32 [V, T, H, W, 3] in 0..1, and frames, float32 [F, H, W, 3] or None; arguments: see `make_planes`."""
    views, frames = make_planes(key, video, frame_index, spec, image)
    return jnp.stack([from_planes(view) for view in views]), None if frames is None else from_planes(frames)
