"""Mixup and CutMix of clips and their targets, drawn for each row on its own (timm's mode "elem"); smoothed targets."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Mix:
    """How rows are mixed; the defaults are VideoMAE's fine-tuning's.

    Attributes:
      mixup: a of the Beta(a, a) that a row's own share is drawn from; 0: no mixup.
      cutmix: the same for the share of the frame that stays a row's own; 0: no CutMix.
      probability: of a row to be mixed at all.
      switch: probability of CutMix instead of mixup, where both are on.

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
        """Whether any row is ever mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def soft_targets(labels: Int[Array, " B"], classes: int, smoothing: float = 0.0) -> Float[Array, "B {classes}"]:
    """Targets of int32 [B] labels: float32 [B, classes], rows that sum to 1; zeros for label -1 (no label).

    The class has 1 - smoothing, and `smoothing` is spread over all classes, its own too (timm).
    """
    own = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    return jnp.where(labels[:, None] >= 0, own * (1 - smoothing) + smoothing / classes, 0.0)


def symmetric_beta(first: Float[Array, "*n"], second: Float[Array, "*n"], a) -> Float[Array, "*n"]:
    """Beta(a, a), any a above 0, out of two numbers drawn uniformly from 0..1, without a loop that rejects.

    (1 + T / sqrt(2a + T^2)) / 2 of a Student T with 2a degrees of freedom, which Bailey (1994) makes of two uniform numbers;
    the form is Devroye's (1996, "Random variate generation in one line of code").
    """
    power = first ** (1 / a)
    cos = jnp.cos(2 * jnp.pi * second)
    return jnp.clip((1 + cos / jnp.sqrt(power / (1 - power) + cos**2)) / 2, 0, 1)


def outside_box(middle: Float[Array, "2"], height: int, width: int, share) -> Float[Array, "{height} {width}"]:
    """CutMix's frame, float32 [H, W]: 0 in a box of about 1 - share of the frame, 1 around it.

    The box's middle, float32 [2] in 0..1, is anywhere in the frame, and what reaches over the border is cut off, so the box
    may be smaller.
    """
    side = jnp.sqrt(1 - share)

    def inside(middle, length):
        half = jnp.floor(length * side) // 2
        offset = jnp.arange(length) - jnp.floor(middle * length)
        return (offset >= -half) & (offset < half)

    return 1.0 - (inside(middle[0], height)[:, None] & inside(middle[1], width))


def draw_weights(
    key: Key[Array, ""], height: int, width: int, spec: Mix
) -> tuple[Float[Array, "{height} {width}"], Float[Array, ""]]:
    """How much of a row stays its own: of each pixel, float32 [H, W], and of its target, float32, their mean."""
    draws = jax.random.uniform(key, (6,))
    (acts, cuts, first, second), middle = draws[:4], draws[4:]
    both = spec.mixup > 0 and spec.cutmix > 0
    cuts = cuts < (spec.switch if both else float(spec.cutmix > 0))
    share = symmetric_beta(first, second, jnp.where(cuts, spec.cutmix, spec.mixup))
    outside = outside_box(middle, height, width, share)
    acts = acts < spec.probability
    weights = jnp.where(acts, jnp.where(cuts, outside, share), 1.0)
    return weights, jnp.where(acts, jnp.where(cuts, outside.mean(), share), 1.0)


def mix(
    keys: Key[Array, " B"], clips: Float[Array, "B T H W 3"], targets: Float[Array, "B classes"], spec: Mix
) -> tuple[Float[Array, "B T H W 3"], Float[Array, "B classes"]]:
    """Mixes row i with row B - 1 - i; what is drawn for a row holds for all its frames.

    With an odd B the middle row mixes with itself, which changes nothing. The mass of a target is the mean of its parts':
    1 where both have 1.

    Args:
      keys: one a row, [B].
      clips: float32 [B, T, H, W, 3].
      targets: float32 [B, C].
      spec: how.

    Returns:
      Mixed clips and targets, of the same shapes; the arguments themselves where the spec mixes nothing.
    """
    if not spec.active:
        return clips, targets
    weights, shares = jax.vmap(lambda key: draw_weights(key, *clips.shape[2:4], spec))(keys)
    weights, shares = weights[:, None, :, :, None], shares[:, None]
    return weights * clips + (1 - weights) * clips[::-1], shares * targets + (1 - shares) * targets[::-1]
