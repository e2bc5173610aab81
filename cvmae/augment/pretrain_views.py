"""Views of a clip for pre-training: v, v⁺, the time-reversed clip, and the sampled frames (METHOD section 2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, UInt8

from cvmae.augment.color import Color, jitter_color
from cvmae.augment.distort import Distortion, distort
from cvmae.augment.geometry import Crop, center_weights, draw_weights, from_planes, resize_planes, to_planes

FIRST_VIEWS = ("crop", "raw", "color")


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """Augmentation of a clip for pre-training (METHOD section 2).

    Attributes:
      crop: of v.
      plus: crop of v⁺ and of the time-reversed clip.
      color: jitter of v⁺ and of the time-reversed clip.
      distortion: of v⁺ and of the time-reversed clip, after the jitter.
      views: 1 (v), 2 (v, v⁺) or 3 (v, v⁺ and the time-reversed clip).
      image_crop: `shared` takes the sampled frames from v, so that their tokens have the same positions; `independent` draws
        another crop and, with first_view=color, other colors.
      dtype: of the products that resize, see `resize_planes`.
      first_view: `crop` gives v its crop alone; `raw` the largest centered box, and no flip; `color` its crop, and jitter and
        distortion of its own, so that two views do not agree by their colors.
      plus_shift: S, the largest number of frames that v⁺ begins before or after v; clips then have S frames more than views. See
        `draw_starts`.

    Raises:
      ValueError: image_crop or first_view is another word.
    """

    crop: Crop
    plus: Crop
    color: Color
    views: int = 2
    image_crop: str = "shared"
    dtype: Any = jnp.float32
    distortion: Distortion = Distortion()
    first_view: str = "crop"
    plus_shift: int = 0

    def __post_init__(self):
        if self.first_view not in FIRST_VIEWS:
            raise ValueError(f"augment.first_view is {self.first_view!r}; expected one of {', '.join(FIRST_VIEWS)}")
        if self.image_crop not in ("shared", "independent"):
            raise ValueError(f"image_branch.crop is {self.image_crop!r}; expected 'shared' or 'independent'")


def draw_starts(key: Key[Array, ""], spec: ViewSpec) -> Int[Array, "2"]:
    """Draws the frames of a clip at which v and v⁺ begin, int32 [2], each of 0..S with the same probability.

    Their distance is then the less likely the longer it is, as that of the two clips of a video in CVRL (arXiv 2008.03800), whose
    clips are drawn from whole videos.

    Args:
      key: the key of the sample, as for `make_planes`.
      spec: the augmentation.
    """
    return jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, spec.plus_shift + 1)


def shared_fraction(frames: int, plus_shift: int) -> float:
    """Returns the expected fraction, 0..1, of the `frames` frames of v that v⁺ has too, by the distances that `draw_starts` draws."""
    starts = np.arange(plus_shift + 1)
    distances = np.abs(starts[:, None] - starts)
    return float(np.maximum(0, 1 - distances / frames).mean())


def make_planes(
    key: Key[Array, ""], video: UInt8[Array, "T0 H0 W0 3"], frame_index: Int[Array, " F"], spec: ViewSpec, image: bool
) -> tuple[list[Float[Array, "H 3 T W"]], Float[Array, "H 3 F W"] | None]:
    """Makes the views of one clip, and the images of its sampled frames, in the order of axes of `geometry.to_planes`.

    Args:
      key: the key of the sample.
      video: uint8 [T0, H0, W0, 3]; T0 = T + S, see `ViewSpec.plus_shift`.
      frame_index: int32 [F], indices of the sampled frames in v.
      spec: the augmentation.
      image: True to return the sampled frames too.

    Returns:
      V views, float32 [H, 3, T, W] in 0..1, and frames, float32 [H, 3, F, W] in 0..1, or None.
    """
    crop_key, plus_key, color_key, reverse_key, image_key = jax.random.split(key, 5)
    reverse_crop_key, reverse_color_key = jax.random.split(reverse_key)
    size = (video.shape[1], video.shape[2])
    weights = [_first_weights(crop_key, size, spec)]
    weights += [draw_weights(k, *size, spec.plus) for k in (plus_key, reverse_crop_key)[: spec.views - 1]]
    planes = to_planes(video)
    rows, columns = (jnp.stack(axis) for axis in zip(*weights))
    resized = list(resize_planes(planes, rows, columns, spec.dtype) / 255)
    if spec.plus_shift:
        starts = draw_starts(key, spec)
        length = video.shape[0] - spec.plus_shift
        planes = _part(planes, starts[0], length)
        resized = [_part(view, starts[1 if number == 1 else 0], length) for number, view in enumerate(resized)]
    views = [_recolor_first(crop_key, resized[0], spec)]
    views += [_recolor(k, view, spec) for k, view in zip((color_key, reverse_color_key), resized[1:])]
    if spec.views > 2:
        views[2] = views[2][:, :, ::-1]
    frames = None
    if image and spec.image_crop == "shared":
        frames = views[0][:, :, frame_index]
    elif image:
        rows, columns = _first_weights(image_key, size, spec)
        frames = resize_planes(planes[:, :, frame_index], rows[None], columns[None], spec.dtype)[0] / 255
        frames = _recolor_first(image_key, frames, spec)
    return views, frames


def _part(planes, start, length):
    """Returns `length` frames of a clip [H, 3, T0, W] from the frame `start` on."""
    return jax.lax.dynamic_slice_in_dim(planes, start, length, axis=2)


def _first_weights(key, size, spec):
    """Weights of the crop of v, or of independently cropped frames."""
    if spec.first_view == "raw":
        return center_weights(*size, spec.crop.size)
    return draw_weights(key, *size, spec.crop)


def _recolor_first(key, view, spec):
    """Changes the colors of v, or of independently cropped frames, where first_view=color; `key` is that of the crop."""
    return _recolor(jax.random.fold_in(key, 1), view, spec) if spec.first_view == "color" else view


def _recolor(key, view, spec):
    """Jitters and distorts one view [H, 3, T, W]."""
    return distort(jax.random.fold_in(key, 1), jitter_color(key, view, spec.color, axis=1), spec.distortion)


def make_views(
    key: Key[Array, ""], video: UInt8[Array, "T0 H0 W0 3"], frame_index: Int[Array, " F"], spec: ViewSpec, image: bool
) -> tuple[Float[Array, "V T H W 3"], Float[Array, "F H W 3"] | None]:
    """Makes views, float32 [V, T, H, W, 3] in 0..1, and frames, float32 [F, H, W, 3] or None; arguments: see `make_planes`."""
    views, frames = make_planes(key, video, frame_index, spec, image)
    return jnp.stack([from_planes(view) for view in views]), None if frames is None else from_planes(frames)
