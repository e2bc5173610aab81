"""Comparisons that the loss terms make of the model's output: errors of patches and pairs of embeddings, before any mean over a batch."""

from typing import NamedTuple

from jax import Array
from jaxtyping import Bool, Float

from cvmae.models.crossvideo import CrossVideoOutput, first_of_mask
from cvmae.models.masking import Mask, take_masked
from cvmae.objective.losses import masked_mse
from cvmae.objective.targets import image_targets, video_targets


class PatchErrors(NamedTuple):
    """Squared errors of predicted patches.

    Attributes:
      values: float32 [R, N], of the masked patches, or of all patches in the order of the grid.
      mask: the masked patches among all; None where `values` are those of the masked patches alone.
    """

    values: Float[Array, "R N"]
    mask: Mask | None


class Pairs(NamedTuple):
    """Embeddings that NT-Xent compares; see `losses.nt_xent`, and with an axis F of frames `losses.nt_xent_per_frame`.

    Attributes:
      a, b: [B, E] or [B, F, E]; a row of one is the positive of that row of the other.
      valid: bool [B, F], False for pairs that are left out; None: all count.
      negatives: of the shape of `a`, the time-reversed clips; None without them.
    """

    a: Array
    b: Array
    valid: Bool[Array, "B F"] | None
    negatives: Array | None


def video_errors(output: CrossVideoOutput, inputs, config) -> PatchErrors:
    """Errors of the patches of v and v⁺."""
    assert output.video_predictions is not None  # the term needs it
    if output.video_grid_predictions is None:
        return PatchErrors(masked_mse(output.video_predictions, video_targets(config, inputs).values), None)
    views = inputs.slots.shape[1]
    targets = video_targets(config, inputs, grid_order=True)
    mask = first_of_mask(inputs.video_mask, views, min(views, 2))
    return PatchErrors(masked_mse(output.video_grid_predictions, targets.values), mask)


def latent_errors(output: CrossVideoOutput, inputs) -> PatchErrors:
    """Errors of the predicted features of the patches of v and v⁺."""
    assert output.video_latents is not None
    if inputs.video_latents is None:
        raise ValueError("the teacher's features are missing: make the inputs by `Objective.step_inputs` with its parameters")
    views = inputs.slots.shape[1]
    mask = first_of_mask(inputs.video_mask, views, min(views, 2))
    if output.video_grid_latents is None:
        return PatchErrors(masked_mse(output.video_latents, take_masked(inputs.video_latents, mask)), None)
    return PatchErrors(masked_mse(output.video_grid_latents, inputs.video_latents), mask)


def image_errors(output: CrossVideoOutput, inputs, config) -> PatchErrors:
    """Errors of the patches of the sampled frames."""
    assert output.image_predictions is not None
    if output.image_grid_predictions is None:
        return PatchErrors(masked_mse(output.image_predictions, image_targets(config, inputs).values), None)
    targets = image_targets(config, inputs, grid_order=True)
    return PatchErrors(masked_mse(output.image_grid_predictions, targets.values), inputs.image_mask)


def intra_video_pairs(output: CrossVideoOutput) -> Pairs:
    """Embeddings of v and v⁺."""
    z = output.z
    assert z is not None
    return Pairs(z[:, 0], z[:, 1], None, _reversed_view(z))


def intra_frame_pairs(output: CrossVideoOutput) -> Pairs:
    """Embeddings of v and v⁺ at the temporal positions of the sampled frames."""
    f = output.f
    assert f is not None and output.f_valid is not None
    return Pairs(f[:, 0], f[:, 1], output.f_valid, _reversed_view(f))


def cross_video_pairs(output: CrossVideoOutput) -> Pairs:
    """Mean embedding of v and v⁺, and mean embedding of the sampled frames."""
    assert output.z is not None and output.h is not None
    # The mean is taken before normalizing, as CrossPoint does.
    return Pairs((output.z[:, 0] + output.z[:, 1]) / 2, output.h.mean(1), None, None)


def cross_frame_pairs(output: CrossVideoOutput) -> Pairs:
    """Mean embedding of v and v⁺ at the temporal position of each sampled frame, and that frame's embedding."""
    assert output.f is not None and output.f_valid is not None and output.h is not None
    return Pairs((output.f[:, 0] + output.f[:, 1]) / 2, output.h, output.f_valid, None)


def _reversed_view(embeddings):
    return embeddings[:, 2] if embeddings.shape[1] > 2 else None
