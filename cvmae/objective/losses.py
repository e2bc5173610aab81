"""Masked reconstruction and NT-Xent, in float32, from which the loss terms are made (METHOD section 5)."""

from collections.abc import Mapping

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


def masked_mse(predictions: Float[Array, "*#patches P"], targets: Float[Array, "*#patches P"]) -> Float[Array, "..."]:
    """Mean squared error of each patch, float32 [...], from predictions and targets [..., P], which broadcast.

    MAE, mae_st and VideoMAE all average over the values of a patch, then over the masked patches. If the predictions are those of
    the masked patches only, as here, their loss is the mean of this result.
    """
    return jnp.square(predictions.astype(jnp.float32) - targets.astype(jnp.float32)).mean(-1)


def masked_mean(values: Float[Array, "B N"], hidden: Bool[Array, "B N"], count: int) -> Float[Array, ""]:
    """Mean over the masked patches, float32 scalar, of values in the order of the grid.

    Args:
      values: of every patch.
      hidden: True for the masked patches.
      count: of the masked patches of a sample.
    """
    return jnp.where(hidden, values, 0).sum() / (values.shape[0] * count)


@flax.struct.dataclass
class NTXentOutput:
    """Losses of `nt_xent` before they are averaged.

    Attributes:
      loss: float32 [B, 2], for the anchors a and b of each pair.
      correct: bool [B, 2], True where the positive is nearer than every negative.
      valid: bool [B], False for pairs that are left out of the mean.
    """

    loss: Float[Array, "B 2"]
    correct: Bool[Array, "B 2"]
    valid: Bool[Array, " B"]

    @property
    def counts(self) -> Bool[Array, ""]:
        """True with two valid pairs or more; a pair alone has no other clip to be told from, and would look like success."""
        return self.valid.sum() >= 2

    def mean(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean loss and accuracy (0..1) over the anchors of valid pairs, float32 scalars; 0 where fewer than two pairs are valid."""
        weight = jnp.broadcast_to((self.valid & self.counts)[:, None], self.loss.shape).astype(jnp.float32)
        count = jnp.maximum(weight.sum(), 1.0)
        return (self.loss * weight).sum() / count, (self.correct * weight).sum() / count


def l2_normalize(x: Float[Array, "*axes E"], eps: float = 1e-12) -> Float[Array, "*axes E"]:
    """Scales rows [..., E] to unit length, float32; a row shorter than `eps` is divided by `eps`, as torch's `normalize` does."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), eps**2))


# Anchors whose logits are held in memory at once, over all devices.
MAX_ANCHORS = 1024


def nt_xent(
    a: Float[Array, "B E"],
    b: Float[Array, "B E"],
    *,
    temperature: float = 0.1,
    valid: Bool[Array, " B"] | None = None,
    negatives: Float[Array, "B E"] | None = None,
    max_anchors: int = MAX_ANCHORS,
) -> NTXentOutput:
    """NT-Xent (SimCLR, arXiv 2002.05709): cross-entropy of each row's partner among all other rows of both arguments.

    Equal to pytorch-metric-learning's NTXentLoss and optax.losses.ntxent on the 2B rows; neither of those can leave rows out or
    take candidates that are never anchors. With a sharded batch the negatives are the global batch: every device compares the
    anchors that it holds with all candidates. With more than `max_anchors` rows the logits are computed in chunks, so that a
    large batch does not need a [B, B] matrix.

    Args:
      a: [B, E].
      b: [B, E]; row i is the positive of row i of `a`.
      temperature: τ > 0.
      valid: bool [B]; a False pair is neither an anchor nor a negative.
      negatives: [B, E], candidates for every anchor that are never anchors themselves (time-reversed clips).
      max_anchors: at least 1; a larger B is split into chunks, whose size is the largest divisor of B that is not above it.
    """
    a, b = l2_normalize(a), l2_normalize(b)
    batch = a.shape[0]
    valid = jnp.ones(batch, bool) if valid is None else valid
    positives = (a * b).sum(-1) / temperature
    never_anchors = [] if negatives is None else [l2_normalize(negatives)]

    def similarity(x, y, excluded):
        logits = jnp.einsum("id,jd->ij", x, y, precision=jax.lax.Precision.HIGHEST) / temperature
        return jnp.where(excluded | ~valid[None, :], -jnp.inf, logits)

    def anchor_losses(anchors, partners):
        """Returns the losses of all anchors, and where the positive has the highest logit: [B] each."""

        def chunk_losses(chunk):
            x, index, positive = chunk
            same_clip = index[:, None] == jnp.arange(batch)[None, :]
            candidates = [similarity(x, partners, same_clip), similarity(x, anchors, same_clip)]
            candidates += [similarity(x, y, jnp.zeros_like(same_clip)) for y in never_anchors]
            logits = jnp.concatenate(candidates, axis=1)
            loss = jax.nn.logsumexp(jnp.concatenate([positive[:, None], logits], axis=1), axis=1) - positive
            return loss, positive > logits.max(axis=1)

        return map_chunks(chunk_losses, (anchors, jnp.arange(batch), positives), max_anchors)

    losses, correct = zip(anchor_losses(a, b), anchor_losses(b, a))
    return NTXentOutput(jnp.stack(losses, 1), jnp.stack(correct, 1), valid)


def map_chunks(function, arrays, max_rows: int):
    """Applies `function` to chunks of at most `max_rows` rows, one after the other, rematerialized in the backward pass.

    Args:
      function: from a tree of arrays [r, ...] to a tree of arrays [r, ...], row by row.
      arrays: a tree of arrays [B, ...].
      max_rows: at least 1; the size of a chunk is the largest divisor of B that is not above it.

    Returns:
      `function(arrays)`.
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    rows = max(divisor for divisor in range(1, min(max_rows, batch) + 1) if batch % divisor == 0)
    if rows == batch:
        return function(arrays)
    # A chunk takes every n-th row, so that rows of a sharded batch stay on their devices.
    chunks = jax.tree.map(lambda x: einops.rearrange(x, "(r n) ... -> n r ...", r=rows), arrays)
    results = jax.lax.map(jax.checkpoint(function), chunks)
    return jax.tree.map(lambda x: einops.rearrange(x, "n r ... -> (r n) ..."), results)


def feature_std(features: Float[Array, "B D"]) -> Float[Array, ""]:
    """Standard deviation of features [B, D] over the batch, averaged over D, float32 scalar; 0 means that they collapsed."""
    return features.astype(jnp.float32).std(axis=0).mean()


def nt_xent_per_frame(
    a: Float[Array, "B F E"],
    b: Float[Array, "B F E"],
    temperature: float,
    valid: Bool[Array, "B F"],
    negatives: Float[Array, "B F E"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`nt_xent` for each of the F sampled frames on its own, averaged over the frames that have two valid pairs or more.

    Args:
      a: [B, F, E].
      b: [B, F, E]; row i of frame k is the positive of row i of frame k of `a`.
      temperature: τ > 0.
      valid: bool [B, F]; False leaves a pair out.
      negatives: [B, F, E] or None, see `nt_xent`.

    Returns:
      (loss, accuracy), float32 scalars, as `NTXentOutput.mean`; 0 where no frame counts.
    """

    def one_frame(a, b, valid, negatives):
        pairs = nt_xent(a, b, temperature=temperature, valid=valid, negatives=negatives)
        return *pairs.mean(), pairs.counts

    axes = (1, 1, 1, None if negatives is None else 1)
    losses, accuracies, counts = jax.vmap(one_frame, in_axes=axes)(a, b, valid, negatives)
    # Frames that do not count are zeros.
    frames = jnp.maximum(counts.sum(dtype=jnp.float32), 1.0)
    return losses.sum() / frames, accuracies.sum() / frames


def weighted_sum(losses: Mapping[str, Float[Array, ""]], weights: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
    """Σ weight · loss over the terms in `losses`, float32 scalar; `weights` may have more terms."""
    return sum((weights[name] * loss for name, loss in losses.items()), jnp.float32(0))
