"""RandAugment of clips: timm's "increasing" operations, one draw for all frames of a clip."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, UInt8

from cvmae.augment import pil

STRONGEST = 10.0


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """How clips are augmented; the defaults are timm's `rand-m7-n4-mstd0.5-inc1`, as in VideoMAE's fine-tuning.

    Attributes:
      layers: operations drawn one after the other, each uniformly out of all, so one may come twice.
      magnitude: mean strength, 0..10. 0 changes nothing (with deviation 0).
      deviation: standard deviation of the strength, which is normal and cut to 0..10.
      probability: of an operation that was drawn to act.
      fill: color of what comes from outside the frame, uint8 R, G, B. VideoMAE's is this gray, timm's default; timm's image
        recipes set the rounded mean of ImageNet, (124, 116, 104).
      interpolation: `bicubic` (VideoMAE) or `bilinear`.

    Raises:
      ValueError: a field is out of its range.
    """

    layers: int = 4
    magnitude: float = 7.0
    deviation: float = 0.5
    probability: float = 0.5
    fill: tuple[int, int, int] = (128, 128, 128)
    interpolation: str = "bicubic"

    def __post_init__(self):
        if self.interpolation not in pil.INTERPOLATIONS:
            raise ValueError(f"interpolation is {self.interpolation!r}; expected one of {', '.join(pil.INTERPOLATIONS)}")
        if not 0 <= self.magnitude <= STRONGEST:
            raise ValueError(f"magnitude is {self.magnitude}; expected 0 to {STRONGEST:g}")
        if self.layers < 0 or self.deviation < 0 or not 0 <= self.probability <= 1:
            raise ValueError(f"expected layers and deviation of at least 0 and a probability in 0..1, got {self}")


def _whole(strength, most: int):
    return jnp.floor(strength * most).astype(jnp.int32)


def _operations(spec: RandAugment):
    """{timm's name: video, strength 0..1, sign ±1 -> video}."""
    fill, kind = spec.fill, spec.interpolation

    def factor(strength, sign):
        return jnp.maximum(0.1, 1 + sign * 0.9 * strength)

    return {
        "AutoContrast": lambda v, s, sign: pil.autocontrast(v),
        "Equalize": lambda v, s, sign: pil.equalize(v),
        "Invert": lambda v, s, sign: pil.invert(v),
        "Rotate": lambda v, s, sign: pil.rotate(v, sign * 30 * s, fill, kind),
        "PosterizeIncreasing": lambda v, s, sign: pil.posterize(v, 4 - _whole(s, 4)),
        "SolarizeIncreasing": lambda v, s, sign: pil.solarize(v, 256 - _whole(s, 256)),
        "SolarizeAdd": lambda v, s, sign: pil.solarize_add(v, _whole(s, 110)),
        "ColorIncreasing": lambda v, s, sign: pil.color(v, factor(s, sign)),
        "ContrastIncreasing": lambda v, s, sign: pil.contrast(v, factor(s, sign)),
        "BrightnessIncreasing": lambda v, s, sign: pil.brightness(v, factor(s, sign)),
        "SharpnessIncreasing": lambda v, s, sign: pil.sharpness(v, factor(s, sign)),
        "ShearX": lambda v, s, sign: pil.shear_x(v, sign * 0.3 * s, fill, kind),
        "ShearY": lambda v, s, sign: pil.shear_y(v, sign * 0.3 * s, fill, kind),
        "TranslateXRel": lambda v, s, sign: pil.translate_x(v, sign * 0.45 * s * v.shape[2], fill, kind),
        "TranslateYRel": lambda v, s, sign: pil.translate_y(v, sign * 0.45 * s * v.shape[1], fill, kind),
    }


NAMES = tuple(_operations(RandAugment()))


class Draw(NamedTuple):
    """What is done to one clip, an entry a layer.

    Attributes:
      operation: int32 [layers], into NAMES.
      magnitude: float32 [layers], 0..10.
      sign: float32 [layers], -1 or 1, for the operations that have a direction.
      acts: bool [layers].
    """

    operation: jax.Array
    magnitude: jax.Array
    sign: jax.Array
    acts: jax.Array


def draw(key: Key[Array, ""], spec: RandAugment) -> Draw:
    """Draws operations and strengths for one clip.

    A layer of magnitude 0 does not act. timm's does where the operation has no strength (AutoContrast, Equalize, Invert) or
    begins above nothing (PosterizeIncreasing keeps 4 bits then).
    """
    choice_key, magnitude_key = jax.random.split(key)
    operation, sign, acts = jax.random.uniform(choice_key, (3, spec.layers))
    magnitude = spec.magnitude + spec.deviation * jax.random.normal(magnitude_key, (spec.layers,))
    magnitude = jnp.clip(magnitude, 0, STRONGEST)
    return Draw(
        operation=jnp.floor(operation * len(NAMES)).astype(jnp.int32),
        magnitude=magnitude,
        sign=jnp.where(sign < 0.5, -1.0, 1.0),
        acts=(acts < spec.probability) & (magnitude > 0),
    )


def apply(video: UInt8[Array, "T H W 3"], drawn: Draw, spec: RandAugment) -> UInt8[Array, "T H W 3"]:
    """Does to all frames of a clip, uint8 [T, H, W, 3], what was drawn."""
    branches = [lambda v, s, sign: v, *_operations(spec).values()]

    def layer(video, one: Draw):
        branch = jnp.where(one.acts, one.operation + 1, 0)
        return jax.lax.switch(branch, branches, video, one.magnitude / STRONGEST, one.sign), None

    return jax.lax.scan(layer, video, drawn)[0]


def rand_augment(key: Key[Array, ""], video: UInt8[Array, "T H W 3"], spec: RandAugment) -> UInt8[Array, "T H W 3"]:
    """RandAugment of one clip, uint8 [T, H, W, 3] -> the same.

    Only the operations drawn are computed, unless this stands under `vmap`, which computes all fifteen: for several clips use
    `rand_augment_clips`.
    """
    return apply(video, draw(key, spec), spec)


def rand_augment_clips(keys: Key[Array, " B"], videos: UInt8[Array, "B T H W 3"], spec: RandAugment) -> UInt8[Array, "B T H W 3"]:
    """`rand_augment` of clips uint8 [B, T, H, W, 3], one after the other, with a key each.

    One after the other costs little, for a clip keeps a device busy; but rows that lie on several devices must be spread by
    `jax.shard_map` around this, else every device computes them all.
    """
    return jax.lax.map(lambda row: rand_augment(*row, spec), (keys, videos))
