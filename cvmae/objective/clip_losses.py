"""Losses of the single clips of a batch, from which the loss of each source of a mixture is made.

Every function returns values and weights, float32 [B] each, whose weighted mean over the batch is the loss of the term.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cvmae.models.crossvideo import first_of_mask
from cvmae.objective.losses import masked_mse, nt_xent
from cvmae.objective.targets import image_targets, video_targets

ClipLosses = tuple[Float[Array, " B"], Float[Array, " B"]]


def mse_video(output, inputs, config) -> ClipLosses:
    """Reconstruction of the masked patches of v and v⁺, of each clip."""
    if output.video_grid_predictions is None:
        return _patches(masked_mse(output.video_predictions, video_targets(config, inputs).values), inputs)
    views = inputs.slots.shape[1]
    mask = first_of_mask(inputs.video_mask, views, min(views, 2))
    targets = video_targets(config, inputs, grid_order=True)
    return _patches(_only_masked(masked_mse(output.video_grid_predictions, targets.values), mask), inputs)


def mse_image(output, inputs, config) -> ClipLosses:
    """Reconstruction of the masked patches of the sampled frames, of each clip."""
    if output.image_grid_predictions is None:
        return _patches(masked_mse(output.image_predictions, image_targets(config, inputs).values), inputs)
    targets = image_targets(config, inputs, grid_order=True)
    return _patches(_only_masked(masked_mse(output.image_grid_predictions, targets.values), inputs.image_mask), inputs)


def _only_masked(values, mask):
    """The values of the masked patches, scaled so that their mean over all patches is that over the masked ones."""
    return jnp.where(mask.hidden, values, 0) * (values.shape[1] / mask.masked.shape[1])


def _patches(values, inputs) -> ClipLosses:
    clips = values.reshape(inputs.slots.shape[0], -1).mean(1)
    return clips, jnp.ones_like(clips)


def intra_video(output, inputs, config) -> ClipLosses:
    """NT-Xent of v and v⁺, of each clip."""
    z = output.z
    return _pairs(z[:, 0], z[:, 1], config, negatives=_reversed(z))


def cross_video(output, inputs, config) -> ClipLosses:
    """NT-Xent of the mean of v and v⁺ and that of the frames, of each clip."""
    return _pairs((output.z[:, 0] + output.z[:, 1]) / 2, output.h.mean(1), config)


def intra_frame(output, inputs, config) -> ClipLosses:
    """NT-Xent of v and v⁺ at the sampled frames, of each clip."""
    f = output.f
    return _frames(f[:, 0], f[:, 1], output.f_valid, config, _reversed(f))


def cross_frame(output, inputs, config) -> ClipLosses:
    """NT-Xent of the mean of v and v⁺ at each sampled frame and that frame, of each clip."""
    return _frames((output.f[:, 0] + output.f[:, 1]) / 2, output.h, output.f_valid, config)


def _reversed(embeddings):
    return embeddings[:, 2] if embeddings.shape[1] > 2 else None


def _pairs(a, b, config, valid=None, negatives=None) -> ClipLosses:
    """Mean over both anchors of each pair; weights sum to 1, or to 0 where fewer than two pairs are valid."""
    pairs = nt_xent(a, b, temperature=config.contrast.temperature, valid=valid, negatives=negatives)
    weight = (pairs.valid & pairs.counts).astype(jnp.float32)
    return jnp.where(weight > 0, pairs.loss.mean(1), 0), weight / jnp.maximum(weight.sum(), 1.0)


def _frames(a, b, valid, config, negatives=None) -> ClipLosses:
    axes = (1, 1, 1, None if negatives is None else 1)
    values, weights = jax.vmap(lambda *frame: _pairs(frame[0], frame[1], config, *frame[2:]), in_axes=axes)(
        a, b, valid, negatives
    )
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
