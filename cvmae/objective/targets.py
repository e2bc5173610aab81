"""Reconstruction targets of both branches: normalized pixels of the masked patches (METHOD section 5)."""

from collections.abc import Sequence

from jaxtyping import Float

from cvmae.array_types import AnyArray
from cvmae.augment import normalize
from cvmae.models.autoencoder import Targets, make_targets
from cvmae.models.build import decoder_spec, image_grid, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.objective.views_and_masks import ModelInputs


def target_pixels(
    pixels: Float[AnyArray, "*axes 3"], norm: str, mean: Sequence[float], std: Sequence[float]
) -> Float[AnyArray, "*axes 3"]:
    """Pixels [..., 3] in 0..1, brought into the space from which targets are computed; `norm` is one of `TARGET_NORMS`.

    VideoMAE normalizes raw pixels per channel; MAE and mae_st normalize what the encoder sees.
    """
    return pixels if norm == "patch_channel" else normalize(pixels, mean, std)


def video_targets(config, inputs: ModelInputs) -> Targets:
    """Targets of the masked patches of v and v⁺; the time-reversed clip is not predicted. See `make_targets`."""
    views = inputs.slots.shape[1]
    count = min(views, 2)
    video, mask = first_views(inputs.video, views, count), first_of_mask(inputs.video_mask, views, count)
    return _branch_targets(config, config.video_branch, video, mask, video_grid(config))


def image_targets(config, inputs: ModelInputs) -> Targets:
    """Targets of the masked patches of the sampled frames. See `make_targets`."""
    return _branch_targets(config, config.image_branch, inputs.image, inputs.image_mask, image_grid(config))


def _branch_targets(config, branch, pixels, mask, grid):
    pixels = target_pixels(pixels, branch.target_norm, config.augment.mean, config.augment.std)
    return make_targets(pixels, mask, decoder_spec(config, branch), grid, branch.target_norm)
