"""Mixup and CutMix of clips and their targets, drawn for each row on its own (timm's mode "elem"); smoothed targets."""

import dataclasses

import jax
import jax.numpy as jnp


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


def soft_targets(labels, classes: int, smoothing: float = 0.0):
    """Targets of int32 [B] labels: float32 [B, classes], rows that sum to 1; zeros for label -1 (no label).

    The class has 1 - smoothing, and `smoothing` is spread over all classes, its own too (timm).
    """
    own = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    return jnp.where(labels[:, None] >= 0, own * (1 - smoothing) + smoothing / classes, 0.0)


def _outside_box(key, height: int, width: int, share):
    """CutMix's frame, float32 [H, W]: 0 in a box of about 1 - share of the frame, 1 around it.

    The box's middle is anywhere in the frame, and what reaches over the border is cut off, so the box may be smaller.
    """
    row_key, column_key = jax.random.split(key)
    side = jnp.sqrt(1 - share)

    def inside(key, length):
        half = jnp.floor(length * side).astype(jnp.int32) // 2
        middle = jax.random.randint(key, (), 0, length)
        places = jnp.arange(length)
        return (places >= middle - half) & (places < middle + half)

    return 1.0 - (inside(row_key, height)[:, None] & inside(column_key, width))


def draw_weights(key, height: int, width: int, spec: Mix):
    """How much of a row stays its own: of each pixel, float32 [H, W], and of its target, float32, their mean."""
    acts_key, switch_key, share_key, box_key = jax.random.split(key, 4)
    both = spec.mixup > 0 and spec.cutmix > 0
    cuts = jax.random.uniform(switch_key) < (spec.switch if both else float(spec.cutmix > 0))
    concentration = jnp.where(cuts, spec.cutmix, spec.mixup)
    share = jax.random.beta(share_key, concentration, concentration)
    outside = _outside_box(box_key, height, width, share)
    acts = jax.random.uniform(acts_key) < spec.probability
    weights = jnp.where(acts, jnp.where(cuts, outside, share), 1.0)
    return weights, jnp.where(acts, jnp.where(cuts, outside.mean(), share), 1.0)


def mix(keys, clips, targets, spec: Mix):
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
