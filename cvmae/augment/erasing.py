"""Random erasing of clips: one box through all frames, filled with noise (timm's mode "pixel", as a cube)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from cvmae.augment.geometry import Crop, draw_box


@dataclasses.dataclass(frozen=True)
class Erasing:
    """Random erasing; the defaults are those of timm and of VideoMAE's fine-tuning.

    Attributes:
      probability: of a clip to lose a box.
      area: range of the box's area, as a fraction of the frame's, drawn uniformly.
      ratio: range of width over height, drawn uniformly in its logarithm.

    Raises:
      ValueError: a field is out of its range.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability of erasing is {self.probability}; expected 0 to 1")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"expected 0 < low <= high for area (at most 1) and ratio, got {self}")


def erase(key: Key[Array, ""], video: Float[Array, "T H W 3"], spec: Erasing) -> Float[Array, "T H W 3"]:
    """Fills one box, the same in all frames, with N(0, 1) noise drawn for each pixel, channel and frame.

    timm draws again when a box does not fit; here a side that is too long is cut to the frame, as in `draw_box`, and the box's
    edges are rounded to pixels.

    Args:
      key: the key of the clip.
      video: float32 [T, H, W, 3], normalized, so that the noise has the distribution of the pixels.
      spec: the probability and the box.

    Returns:
      float32 [T, H, W, 3].
    """
    acts_key, box_key, noise_key = jax.random.split(key, 3)
    height, width = video.shape[1:3]
    top, left, box_height, box_width = draw_box(box_key, height, width, Crop((height, width), spec.area, spec.ratio))
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= jnp.round(top)) & (rows < jnp.round(top + box_height))
    in_columns = (columns >= jnp.round(left)) & (columns < jnp.round(left + box_width))

    def erased(video):
        noise = jax.random.normal(noise_key, video.shape, video.dtype)
        return jnp.where((in_rows[:, None] & in_columns)[..., None], noise, video)

    return jax.lax.cond(jax.random.uniform(acts_key) < spec.probability, erased, lambda video: video, video)
