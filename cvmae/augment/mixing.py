"""Mixup and CutMix of clips and their targets, drawn for each sample on its own (timm's mode "elem"), and label smoothing."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixup and CutMix; the defaults are those of VideoMAE's fine-tuning.

    Attributes:
      mixup: a of the Beta(a, a) from which a sample's own weight is drawn; 0 turns mixup off.
      cutmix: a of the Beta(a, a) from which the fraction of the frame that stays its own is drawn; 0 turns CutMix off.
      probability: of a sample to be mixed.
      switch: probability of CutMix instead of mixup, if both are on.

    Raises:
      ValueError: a field is out of its range.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self):
        if self.mixup < 0 or self.cutmix < 0 or not 0 <= self.probability <= 1 or not 0 <= self.switch <= 1:
            raise ValueError(f"expected mixup and cutmix of at least 0, probability and switch in 0..1, got {self}")

    @property
    def active(self) -> bool:
        """Returns True if samples are ever mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def soft_targets(labels: Int[Array, " B"], classes: int, smoothing: float = 0.0) -> Float[Array, "B {classes}"]:
    """Smoothed one-hot targets, float32 [B, classes], of labels, int32 [B]; rows of label -1 (no label) are zero.

    The class gets 1 - smoothing, and `smoothing` is spread over all classes, the class included, as in timm.
    """
    own = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    return jnp.where(labels[:, None] >= 0, own * (1 - smoothing) + smoothing / classes, 0.0)


def multi_hot_targets(
    rows: Int[Array, " B"], label_sets: Bool[Array, "S classes"], smoothing: float = 0.0
) -> Float[Array, "B classes"]:
    """Smoothed multi-hot targets, float32 [B, classes], for a loss of each class by itself; row -1 (no label) is zero.

    Every class of a clip gets 1 - smoothing + smoothing / classes, every other one smoothing / classes, as in timm's binary
    cross-entropy; for a clip with one label these are the targets of `soft_targets`.

    Args:
      rows: int32 [B], rows of `label_sets`, -1 for no label.
      label_sets: bool [S, classes]; row s has True for each class of the set s.
      smoothing: in 0..1, 0 for none.
    """
    own = label_sets[rows].astype(jnp.float32)
    return jnp.where(rows[:, None] >= 0, own * (1 - smoothing) + smoothing / label_sets.shape[1], 0.0)


def symmetric_beta(first: Float[Array, "*n"], second: Float[Array, "*n"], a) -> Float[Array, "*n"]:
    """Beta(a, a) variates, a > 0, from two uniform variates in 0..1, without a rejection loop.

    (1 + T / sqrt(2a + T^2)) / 2 for a Student T with 2a degrees of freedom, which Bailey (1994) computes from two uniform
    variates; the form is Devroye's (1996, "Random variate generation in one line of code").
    """
    power = first ** (1 / a)
    cos = jnp.cos(2 * jnp.pi * second)
    return jnp.clip((1 + cos / jnp.sqrt(power / (1 - power) + cos**2)) / 2, 0, 1)


def outside_box(middle: Float[Array, "2"], height: int, width: int, fraction) -> Float[Array, "{height} {width}"]:
    """CutMix's weights of a frame, float32 [H, W]: 0 inside a box of about 1 - fraction of the frame, 1 outside.

    The box's middle, float32 [2] in 0..1, lies anywhere in the frame, and what reaches over the border is cut off, so the box
    may be smaller.
    """
    side = jnp.sqrt(1 - fraction)

    def inside(middle, length):
        half = jnp.floor(length * side) // 2
        offset = jnp.arange(length) - jnp.floor(middle * length)
        return (offset >= -half) & (offset < half)

    return 1.0 - (inside(middle[0], height)[:, None] & inside(middle[1], width))


def draw_weights(
    key: Key[Array, ""], height: int, width: int, spec: Mix
) -> tuple[Float[Array, "{height} {width}"], Float[Array, ""]]:
    """Draws a sample's own weight: of each pixel, float32 [H, W], and of its target, float32 scalar, the mean over the pixels."""
    draws = jax.random.uniform(key, (6,))
    (acts, cuts, first, second), middle = draws[:4], draws[4:]
    both = spec.mixup > 0 and spec.cutmix > 0
    cuts = cuts < (spec.switch if both else float(spec.cutmix > 0))
    own = symmetric_beta(first, second, jnp.where(cuts, spec.cutmix, spec.mixup))
    outside = outside_box(middle, height, width, own)
    acts = acts < spec.probability
    weights = jnp.where(acts, jnp.where(cuts, outside, own), 1.0)
    return weights, jnp.where(acts, jnp.where(cuts, outside.mean(), own), 1.0)


def mix(
    keys: Key[Array, " B"], clips: Float[Array, "B T H W 3"], targets: Float[Array, "B classes"], spec: Mix
) -> tuple[Float[Array, "B T H W 3"], Float[Array, "B classes"]]:
    """Mixes sample i with sample B - 1 - i; what is drawn for a sample holds for all its frames.

    With an odd B the middle sample mixes with itself, which changes nothing. Targets get the mean weight of the pixels,
    so rows that sum to 1 still do.

    Args:
      keys: one key per sample, [B].
      clips: float32 [B, T, H, W, 3].
      targets: float32 [B, classes].
      spec: mixup and CutMix.

    Returns:
      Mixed clips and targets of the same shapes; the arguments themselves if the spec mixes nothing.
    """
    if not spec.active:
        return clips, targets
    height, width = clips.shape[2:4]
    pixel_weights, target_weights = jax.vmap(lambda key: draw_weights(key, height, width, spec))(keys)
    pixel_weights, target_weights = pixel_weights[:, None, :, :, None], target_weights[:, None]
    mixed_clips = pixel_weights * clips + (1 - pixel_weights) * clips[::-1]
    return mixed_clips, target_weights * targets + (1 - target_weights) * targets[::-1]
