"""Losses of the single clips of a batch, from which the loss of each source of a mixture is made.

Every function returns values and weights, float32 [B] each, whose weighted mean over the batch is the loss of the term.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cvmae.objective import comparisons
from cvmae.objective.comparisons import Pairs, PatchErrors
from cvmae.objective.losses import nt_xent

ClipLosses = tuple[Float[Array, " B"], Float[Array, " B"]]


def mse_video(output, inputs, config) -> ClipLosses:
    """Reconstruction of the masked patches of v and v⁺, of each clip."""
    return _patches(comparisons.video_errors(output, inputs, config), inputs)


def mse_image(output, inputs, config) -> ClipLosses:
    """Reconstruction of the masked patches of the sampled frames, of each clip."""
    return _patches(comparisons.image_errors(output, inputs, config), inputs)


def latent_video(output, inputs, config) -> ClipLosses:
    """Prediction of a teacher's features of the masked patches of v and v⁺, of each clip."""
    return _patches(comparisons.latent_errors(output, inputs), inputs)


def _patches(errors: PatchErrors, inputs) -> ClipLosses:
    values, mask = errors
    if mask is not None:  # scaled so that the mean over all patches is that over the masked ones
        values = jnp.where(mask.hidden, values, 0) * (values.shape[1] / mask.masked.shape[1])
    clips = values.reshape(inputs.slots.shape[0], -1).mean(1)
    return clips, jnp.ones_like(clips)


def intra_video(output, inputs, config) -> ClipLosses:
    """NT-Xent of v and v⁺, of each clip."""
    return _video_level(comparisons.intra_video_pairs(output), config)


def cross_video(output, inputs, config) -> ClipLosses:
    """NT-Xent of the mean of v and v⁺ and that of the frames, of each clip."""
    return _video_level(comparisons.cross_video_pairs(output), config)


def intra_frame(output, inputs, config) -> ClipLosses:
    """NT-Xent of v and v⁺ at the sampled frames, of each clip."""
    return _frame_level(comparisons.intra_frame_pairs(output), config)


def cross_frame(output, inputs, config) -> ClipLosses:
    """NT-Xent of the mean of v and v⁺ at each sampled frame and that frame, of each clip."""
    return _frame_level(comparisons.cross_frame_pairs(output), config)


def _video_level(pairs: Pairs, config) -> ClipLosses:
    """Mean over both anchors of each pair; weights sum to 1, or to 0 where fewer than two pairs are valid."""
    a, b, valid, negatives = pairs
    losses = nt_xent(a, b, temperature=config.contrast.temperature, valid=valid, negatives=negatives)
    weight = (losses.valid & losses.counts).astype(jnp.float32)
    return jnp.where(weight > 0, losses.loss.mean(1), 0), weight / jnp.maximum(weight.sum(), 1.0)


def _frame_level(pairs: Pairs, config) -> ClipLosses:
    axes = (1, 1, 1, None if pairs.negatives is None else 1)
    values, weights = jax.vmap(lambda *frame: _video_level(Pairs(*frame), config), in_axes=axes)(*pairs)
    total = weights.sum(0)
    return (values * weights).sum(0) / jnp.where(total > 0, total, 1), total


def sum_by_source(values: Float[Array, " B"], weights: Float[Array, " B"], source, count: int) -> Float[Array, "S 2"]:
    """Sums of weighted values and of weights over the clips of each source.

    Args:
      values: of each clip.
      weights: of each clip.
      source: int32 [B], the number of the source of each clip.
      count: S, the number of sources.
    """
    rows = jnp.stack([values * weights, weights], 1)
    return (rows[:, None] * (source[:, None] == jnp.arange(count))[..., None]).sum(0)
