"""RandAugment with timm's "increasing" operations; what is drawn is the same for all frames of a clip."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, UInt8

from cvmae.augment import pil

MAX_MAGNITUDE = 10.0


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """RandAugment; the defaults are timm's `rand-m7-n4-mstd0.5-inc1`, as in VideoMAE's fine-tuning.

    Attributes:
      layers: number of operations applied in turn, each drawn uniformly from all, so that one may come twice.
      magnitude: mean strength, 0..10. 0 changes nothing (with deviation 0).
      deviation: standard deviation of the strength, which is normal and clipped to 0..10.
      probability: that an operation is applied once it is drawn.
      fill: color of pixels from outside the frame, uint8 R, G, B. The default is that of timm and VideoMAE; timm's image recipes
        set the rounded mean of ImageNet, (124, 116, 104).
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
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude is {self.magnitude}; expected 0 to {MAX_MAGNITUDE:g}")
        if self.layers < 0 or self.deviation < 0 or not 0 <= self.probability <= 1:
            raise ValueError(f"expected layers and deviation of at least 0 and a probability in 0..1, got {self}")


def _integer(strength, largest: int):
    return jnp.floor(strength * largest).astype(jnp.int32)


def _operations(spec: RandAugment):
    """Operations by timm's name: functions of a video, a strength in 0..1 and a sign ±1."""
    fill, interpolation = spec.fill, spec.interpolation

    def factor(strength, sign):
        return jnp.maximum(0.1, 1 + sign * 0.9 * strength)

    return {
        "AutoContrast": lambda v, s, sign: pil.autocontrast(v),
        "Equalize": lambda v, s, sign: pil.equalize(v),
        "Invert": lambda v, s, sign: pil.invert(v),
        "Rotate": lambda v, s, sign: pil.rotate(v, sign * 30 * s, fill, interpolation),
        "PosterizeIncreasing": lambda v, s, sign: pil.posterize(v, 4 - _integer(s, 4)),
        "SolarizeIncreasing": lambda v, s, sign: pil.solarize(v, 256 - _integer(s, 256)),
        "SolarizeAdd": lambda v, s, sign: pil.solarize_add(v, _integer(s, 110)),
        "ColorIncreasing": lambda v, s, sign: pil.color(v, factor(s, sign)),
        "ContrastIncreasing": lambda v, s, sign: pil.contrast(v, factor(s, sign)),
        "BrightnessIncreasing": lambda v, s, sign: pil.brightness(v, factor(s, sign)),
        "SharpnessIncreasing": lambda v, s, sign: pil.sharpness(v, factor(s, sign)),
        "ShearX": lambda v, s, sign: pil.shear_x(v, sign * 0.3 * s, fill, interpolation),
        "ShearY": lambda v, s, sign: pil.shear_y(v, sign * 0.3 * s, fill, interpolation),
        "TranslateXRel": lambda v, s, sign: pil.translate_x(v, sign * 0.45 * s * v.shape[2], fill, interpolation),
        "TranslateYRel": lambda v, s, sign: pil.translate_y(v, sign * 0.45 * s * v.shape[1], fill, interpolation),
    }


NAMES = tuple(_operations(RandAugment()))


class Draw(NamedTuple):
    """Operations drawn for one clip, one entry per layer.

    Attributes:
      operation: int32 [layers], indices into NAMES.
      magnitude: float32 [layers], 0..10.
      sign: float32 [layers], -1 or 1, for the operations that have a direction.
      acts: bool [layers], False for layers that change nothing.
    """

    operation: jax.Array
    magnitude: jax.Array
    sign: jax.Array
    acts: jax.Array


def draw(key: Key[Array, ""], spec: RandAugment) -> Draw:
    """Draws operations and strengths for one clip.

    A layer of magnitude 0 changes nothing. timm's does if the operation has no strength (AutoContrast, Equalize, Invert) or its
    weakest form is no identity (PosterizeIncreasing keeps 4 bits).
    """
    choice_key, magnitude_key = jax.random.split(key)
    operation, sign, acts = jax.random.uniform(choice_key, (3, spec.layers))
    magnitude = spec.magnitude + spec.deviation * jax.random.normal(magnitude_key, (spec.layers,))
    magnitude = jnp.clip(magnitude, 0, MAX_MAGNITUDE)
    return Draw(
        operation=jnp.floor(operation * len(NAMES)).astype(jnp.int32),
        magnitude=magnitude,
        sign=jnp.where(sign < 0.5, -1.0, 1.0),
        acts=(acts < spec.probability) & (magnitude > 0),
    )


def apply(video: UInt8[Array, "T H W 3"], drawn: Draw, spec: RandAugment) -> UInt8[Array, "T H W 3"]:
    """Applies the drawn operations to all frames of a clip, uint8 [T, H, W, 3]."""
    branches = [lambda v, s, sign: v, *_operations(spec).values()]

    def apply_layer(video, layer: Draw):
        branch = jnp.where(layer.acts, layer.operation + 1, 0)
        return jax.lax.switch(branch, branches, video, layer.magnitude / MAX_MAGNITUDE, layer.sign), None

    return jax.lax.scan(apply_layer, video, drawn)[0]


def rand_augment(key: Key[Array, ""], video: UInt8[Array, "T H W 3"], spec: RandAugment) -> UInt8[Array, "T H W 3"]:
    """Applies RandAugment to one clip, uint8 [T, H, W, 3].

    Only the drawn operations are computed, except under `vmap`, which computes all fifteen: for several clips use
    `rand_augment_clips`.
    """
    return apply(video, draw(key, spec), spec)


def rand_augment_clips(keys: Key[Array, " B"], videos: UInt8[Array, "B T H W 3"], spec: RandAugment) -> UInt8[Array, "B T H W 3"]:
    """Applies RandAugment to clips, uint8 [B, T, H, W, 3], one after the other, with one key per clip.

    The loop costs little, because one clip keeps a device busy. If the rows are sharded over devices, wrap this in
    `jax.shard_map`: otherwise every device computes all rows.
    """
    return jax.lax.map(lambda row: rand_augment(row[0], row[1], spec), (keys, videos))
