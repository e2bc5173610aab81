"""Reconstructions as images: the clip, the masked clip, and the decoder's prediction."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cvmae.models import masking
from cvmae.models.autoencoder import DecoderSpec, make_targets
from cvmae.models.build import decoder_spec, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.models.patches import TARGET_NORMS, Grid, patchify, target_frames, unpatchify
from cvmae.objective.objective import target_pixels
from cvmae.parallel import processes
from cvmae.visualize.animation import write_png
from cvmae.visualize.canvas import Cell, Row, as_bytes, compose, fitted_size, resized

GRAY = 0.5
PIXELS = "pixels"  # targets are pixels in 0..1: transformers' VideoMAE with norm_pix_loss=False
NORMS = (*TARGET_NORMS, PIXELS)


@dataclasses.dataclass(frozen=True)
class Predicted:
    """The space of a decoder's predictions.

    Attributes:
      spec: the decoder.
      grid: the grid of its clips.
      norm: the normalization of its targets, one of NORMS.
      mean: the mean that pixels were normalized by.
      std: the standard deviation that pixels were normalized by.
    """

    spec: DecoderSpec
    grid: Grid
    norm: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def given(self) -> str:
        """Words for a caption: the statistics of a masked patch that `rebuild` takes from the clip."""
        if self.norm in ("none", PIXELS):
            return "brightness and contrast too"
        return "with the true mean and standard deviation of each"


@flax.struct.dataclass
class Reconstruction:
    """Clips, masked clips, and reconstructions, each float32 [B, t, H, W, 3] in 0..1, where t frames are predicted."""

    clip: jax.Array
    masked: jax.Array
    rebuilt: jax.Array


def rebuild(pixels, mask: masking.Mask, predictions, about: Predicted) -> Reconstruction:
    """Converts predictions to pixels and puts them among the visible patches.

    Predictions of targets that are normalized patch by patch are denormalized by the true mean and standard deviation of each: the
    texture is predicted, the brightness is the clip's. Visible patches are copied. If the decoder predicts fewer frames than the clip has
    (mae_st), all three arrays hold those frames.

    Args:
      pixels: float32 [B, T, H, W, 3] in 0..1.
      mask: the mask of the encoder.
      predictions: output of the decoder, float32 [B, N - K, P] in the order of `mask.masked`.
      about: the space of the predictions.
    """
    spec, grid = about.spec, about.grid
    norm = "none" if about.norm == PIXELS else about.norm
    raw = about.norm in (PIXELS, "patch_channel")
    target_clip = pixels if about.norm == PIXELS else target_pixels(pixels, norm, about.mean, about.std)
    targets = make_targets(target_clip, mask, spec, grid, norm)
    predicted = predictions * targets.std + targets.mean
    clip = pixels[:, target_frames(grid.num_frames, spec.target_frames)]
    predicted = predicted if raw else denormalize(predicted, about.mean, about.std)
    tubelet = spec.target_tubelet(grid)
    masked, rebuilt = (paste(clip, p, mask, grid, tubelet) for p in (jnp.full_like(predicted, GRAY), predicted))
    return Reconstruction(jnp.clip(clip, 0, 1), masked, rebuilt)


def paste(clip, masked_patches, mask: masking.Mask, grid: Grid, tubelet: int):
    """Puts `masked_patches` [B, N - K, P] in 0..1 among the visible ones of clip [B, t, H, W, 3]; a patch has `tubelet` frames."""
    visible = masking.take_visible(patchify(clip, tubelet, grid.patch), mask)
    return jnp.clip(unpatchify(masking.restore(jnp.concatenate([visible, masked_patches], axis=1), mask), grid), 0, 1)


def hide(pixels, mask: masking.Mask, grid: Grid) -> Reconstruction:
    """Masks clips without reconstructing them, for encoders without a decoder: `rebuilt` is `masked`."""
    gray = jnp.full((*mask.masked.shape, grid.patch_dim()), GRAY)
    masked = paste(pixels, gray, mask, grid, grid.tubelet)
    return Reconstruction(jnp.clip(pixels, 0, 1), masked, masked)


def reconstruct(objective, params, inputs) -> Reconstruction:
    """Reconstructs the first view, v, of every clip of a batch; see `rebuild`."""
    config, views = objective.config, objective.terms.views
    branch = config.video_branch
    about = Predicted(
        decoder_spec(config, branch), video_grid(config), branch.target_norm, config.augment.mean, config.augment.std
    )
    mask, pixels = first_of_mask(inputs.video_mask, views, 1), first_views(inputs.video, views, 1)
    predictions = first_views(objective.forward(params, inputs).video_predictions, min(views, 2), 1)
    return rebuild(pixels, mask, predictions, about)


def denormalize(patches, mean, std):
    """Converts normalized patches [..., P] to pixels in 0..1; the channel is the fastest axis of P."""
    count = patches.shape[-1] // 3
    return patches * jnp.tile(jnp.asarray(std), count) + jnp.tile(jnp.asarray(mean), count)


def draw_reconstruction(path, reconstruction: Reconstruction) -> None:
    """Writes an image with three rows per clip and a column per frame."""
    height, width = reconstruction.clip.shape[2:4]
    size, rows = fitted_size(height, width, side=96), []
    for parts in zip(*map(as_bytes, (reconstruction.clip, reconstruction.masked, reconstruction.rebuilt))):
        for name, frames in zip(("clip", "masked", "reconstruction"), parts):
            rows.append(Row([Cell(frame) for frame in resized(frames, size)], name))
    write_png(path, compose(rows, heads=tuple(f"frame {i + 1}" for i in range(reconstruction.clip.shape[1]))))


def reconstruct_samples(objective, params, samples, count: int) -> Reconstruction:
    """Reconstructs the first `count` clips of a batch of samples; returns numpy arrays, the same in every process."""
    samples = jax.tree.map(lambda a: a[:count], processes.to_host(samples))
    run = jax.jit(lambda params, samples: reconstruct(objective, params, objective.make_inputs(samples)))
    return jax.tree.map(np.asarray, processes.to_host(run(params, samples)))
