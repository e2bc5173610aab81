"""Views of a clip for pre-training: v, v⁺, the time-reversed clip, and the sampled frames (METHOD section 2)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from cvmae.augment.color import Color, jitter_color
from cvmae.augment.geometry import Crop, random_crop


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

    Raises:
      ValueError: image_crop is neither.
    """

    crop: Crop
    plus: Crop
    color: Color
    views: int = 2
    image_crop: str = "shared"

    def __post_init__(self):
        if self.image_crop not in ("shared", "independent"):
            raise ValueError(f"image_branch.crop is {self.image_crop!r}; expected 'shared' or 'independent'")


def make_views(
    key: Key[Array, ""], video: UInt8[Array, "T H0 W0 3"], frame_index: Int[Array, " F"], spec: ViewSpec, image: bool
) -> tuple[Float[Array, "V T H W 3"], Float[Array, "F H W 3"] | None]:
    """Makes the views of one clip, and the images of its sampled frames.

    Args:
      key: the key of the sample.
      video: uint8 [T, H0, W0, 3].
      frame_index: int32 [F], indices of the sampled frames in the clip.
      spec: the augmentation.
      image: True to return the sampled frames too.

    Returns:
      Views, float32 [V, T, H, W, 3] in 0..1, and frames, float32 [F, H, W, 3] in 0..1, or None.
    """
    crop_key, plus_key, color_key, reverse_key, image_key = jax.random.split(key, 5)
    clip = video.astype(jnp.float32) / 255
    views = [random_crop(crop_key, clip, spec.crop)]
    if spec.views > 1:
        views.append(jitter_color(color_key, random_crop(plus_key, clip, spec.plus), spec.color))
    if spec.views > 2:
        crop_key, color_key = jax.random.split(reverse_key)
        views.append(jitter_color(color_key, random_crop(crop_key, clip[::-1], spec.plus), spec.color))
    frames = None
    if image and spec.image_crop == "shared":
        frames = views[0][frame_index]
    elif image:
        frames = random_crop(image_key, clip[frame_index], spec.crop)
    return jnp.stack(views), frames
