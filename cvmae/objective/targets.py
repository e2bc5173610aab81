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
    pixels: Float[AnyArray, "*axes C"], norm: str, mean: Sequence[float], std: Sequence[float]
) -> Float[AnyArray, "*axes C"]:
    """Pixels [..., 3], or patches, in 0..1, brought into the space from which targets are computed; `norm` is one of `TARGET_NORMS`.

    VideoMAE normalizes raw pixels per channel; MAE and mae_st normalize what the encoder sees.
    """
    return pixels if norm == "patch_channel" else normalize(pixels, mean, std)


def video_targets(config, inputs: ModelInputs, grid_order: bool = False) -> Targets:
    """Targets of v and v⁺; the time-reversed clip is not predicted. See `make_targets`.

    Args:
      config: of pre-training.
      inputs: of the model.
      grid_order: False for the masked patches in the order of the predictions, True for all patches in the order of the grid.
    """
    views = inputs.slots.shape[1]
    count = min(views, 2)
    mask = None if grid_order else first_of_mask(inputs.video_mask, views, count)

    def predicted(array):
        return None if array is None else first_views(array, views, count)

    video, patches = predicted(inputs.video), predicted(inputs.video_patches)
    return _branch_targets(config, config.video_branch, video, patches, mask, video_grid(config))


def image_targets(config, inputs: ModelInputs, grid_order: bool = False) -> Targets:
    """Targets of the sampled frames; arguments: see `video_targets`."""
    mask = None if grid_order else inputs.image_mask
    return _branch_targets(config, config.image_branch, inputs.image, inputs.image_patches, mask, image_grid(config))


def _branch_targets(config, branch, pixels, patches, mask, grid):
    spec = decoder_spec(config, branch)
    if patches is not None and spec.target_tubelet(grid) == grid.tubelet:
        pixels = patches
    pixels = target_pixels(pixels, branch.target_norm, config.augment.mean, config.augment.std)
    return make_targets(pixels, mask, spec, grid, branch.target_norm)
