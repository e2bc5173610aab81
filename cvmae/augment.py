"""Views of a decoded clip, made on the accelerator inside the jitted step, with one key a sample.

Nothing here depends on the number of devices: every random number comes from the key of its own sample. Pixels are float32
in 0..1 until `standardise`.
"""

import dataclasses

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of torchvision's grayscale


@dataclasses.dataclass(frozen=True)
class Crop:
    """A random resized crop, one draw a clip.

    Attributes:
      size: (H, W) of the result, pixels.
      scale: range of the area, as a share of the frame's.
      ratio: range of width over height, drawn uniformly in its logarithm.
      flip: probability of a horizontal flip; 0 where labels name left and right (Something-Something).
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0


@dataclasses.dataclass(frozen=True)
class Color:
    """Colour jitter, one draw a clip; the strengths have torchvision's meaning (a factor in 1 ± strength; hue in ± turns)."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.0
    probability: float = 1.0


def draw_box(key, height: int, width: int, crop: Crop):
    """A box (top, left, height, width) in pixels, float32 [4], inside a frame of `height`×`width`.

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


def resample(video, box, size: tuple[int, int]):
    """Cuts `box` out of video [T, H0, W0, C] and resizes it, bilinear and antialiased, to [T, H, W, C]."""
    scale = jnp.asarray(size, jnp.float32) / box[2:]
    shape = (video.shape[0], *size, video.shape[-1])
    return jax.image.scale_and_translate(video, shape, (1, 2), scale, -box[:2] * scale, "linear")


def random_crop(key, video, crop: Crop):
    """A random resized crop and flip of one clip [T, H0, W0, C] -> [T, H, W, C]."""
    box_key, flip_key = jax.random.split(key)
    video = resample(video, draw_box(box_key, *video.shape[1:3], crop), crop.size)
    if crop.flip:
        video = jnp.where(jax.random.uniform(flip_key) < crop.flip, video[:, :, ::-1], video)
    return video


def centre_crop(video, size: tuple[int, int]):
    """The largest centred box of the aspect of `size`, resized to it: [T, H0, W0, C] -> [T, H, W, C]; nothing random."""
    height, width = video.shape[1:3]
    if (height, width) == tuple(size):
        return video
    zoom = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * zoom, size[1] * zoom
    box = jnp.asarray([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width])
    return resample(video, box, size)


def _luma(video):
    return (video * jnp.asarray(LUMA)).sum(-1, keepdims=True)


def _rotate_hue(video, turns):
    """Rotates colours by `turns` (1 = a full circle) around the grey axis; linear, so there is no branch on the hexagon of HSV."""
    angle = 2 * jnp.pi * turns
    cos, sin = jnp.cos(angle), jnp.sin(angle) / jnp.sqrt(3.0)
    grey = (1 - cos) / 3
    matrix = jnp.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * sin + grey + cos * jnp.eye(3)
    return jnp.einsum("...c,dc->...d", video, matrix)


def jitter_color(key, video, color: Color):
    """Brightness, contrast, saturation and hue, in this order, on one clip [T, H, W, 3] in 0..1; the result stays in 0..1."""
    keys = jax.random.split(key, 5)

    def factor(key, strength):
        return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)

    changed = jnp.clip(video * factor(keys[0], color.brightness), 0, 1)
    mean = _luma(changed).mean()
    changed = jnp.clip((changed - mean) * factor(keys[1], color.contrast) + mean, 0, 1)
    grey = _luma(changed)
    changed = jnp.clip((changed - grey) * factor(keys[2], color.saturation) + grey, 0, 1)
    if color.hue:
        turns = jax.random.uniform(keys[3], minval=-color.hue, maxval=color.hue)
        changed = jnp.clip(_rotate_hue(changed, turns), 0, 1)
    return jnp.where(jax.random.uniform(keys[4]) < color.probability, changed, video)


def standardise(pixels, mean, std):
    """(pixels - mean) / std per channel; pixels [..., 3] in 0..1."""
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """How the three inputs are made of a clip (METHOD section 2).

    Attributes:
      crop: of v; geometry alone.
      plus: crop of v⁺ and of the reversed clip.
      color: jitter of v⁺ and of the reversed clip.
      views: 1 (v), 2 (v, v⁺) or 3 (v, v⁺ and the time-reversed clip).
      image_crop: `shared` takes the sampled frames out of v, so that token positions correspond; `independent` crops anew.
    """

    crop: Crop
    plus: Crop
    color: Color
    views: int = 2
    image_crop: str = "shared"

    def __post_init__(self):
        if self.image_crop not in ("shared", "independent"):
            raise ValueError(f"image_branch.crop is {self.image_crop!r}; expected 'shared' or 'independent'")


def make_views(key, video, frame_index, spec: ViewSpec, image: bool):
    """All inputs made of one clip.

    Args:
      key: the sample's key.
      video: uint8 [T, H0, W0, 3].
      frame_index: int32 [F], the sampled frames inside the clip.
      spec: how.
      image: whether the frames are wanted.

    Returns:
      float32 [V, T, H, W, 3] in 0..1, and [F, H, W, 3] or None.
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
