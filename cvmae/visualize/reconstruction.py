"""Pictures of reconstructions: the clip, what the encoder saw of it, and what the decoder made of that."""

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
PIXELS = "pixels"  # what is predicted are pixels in 0..1: transformers' VideoMAE with norm_pix_loss=False
NORMS = (*TARGET_NORMS, PIXELS)


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a decoder's predictions are: its spec, the grid of clips, one of NORMS, and how target pixels were normalized."""

    spec: DecoderSpec
    grid: Grid
    norm: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@flax.struct.dataclass
class Reconstruction:
    """Clips, what was seen of them, and what was made of that, each float32 [B, t, H, W, 3] in 0..1; t frames are predicted."""

    clip: jax.Array
    masked: jax.Array
    rebuilt: jax.Array


def rebuild(pixels, mask: masking.Mask, predictions, about: Predicted) -> Reconstruction:
    """Predictions as pixels among the visible patches.

    Predictions leave the space of the targets by the true mean and deviation of each patch, so what is shown is the texture that
    was predicted at the brightness that was there. Visible patches are pasted as they are. Where the decoder predicts fewer
    frames than the clip has (mae_st), all three show those frames.

    Args:
      pixels: float32 [B, T, H, W, 3] in 0..1.
      mask: what was seen.
      predictions: of the decoder, float32 [B, N - K, P] in the order of `mask.masked`.
      about: what they are.
    """
    spec, grid = about.spec, about.grid
    norm = "none" if about.norm == PIXELS else about.norm
    raw = about.norm in (PIXELS, "patch_channel")
    said = pixels if about.norm == PIXELS else target_pixels(pixels, norm, about.mean, about.std)
    targets = make_targets(said, mask, spec, grid, norm)
    hidden = predictions * targets.std + targets.mean
    clip = pixels[:, target_frames(grid.num_frames, spec.target_frames)]
    hidden = hidden if raw else denormalize(hidden, about.mean, about.std)
    tubelet = spec.target_tubelet(grid)
    masked, rebuilt = (paste(clip, h, mask, grid, tubelet) for h in (jnp.full_like(hidden, GRAY), hidden))
    return Reconstruction(jnp.clip(clip, 0, 1), masked, rebuilt)


def paste(clip, hidden, mask: masking.Mask, grid: Grid, tubelet: int):
    """Visible patches of clip [B, t, H, W, 3] among `hidden` ones [B, N - K, P]; `tubelet` frames a patch. Pixels in 0..1."""
    visible = masking.take_visible(patchify(clip, tubelet, grid.patch), mask)
    return jnp.clip(unpatchify(masking.restore(jnp.concatenate([visible, hidden], axis=1), mask), grid), 0, 1)


def hide(pixels, mask: masking.Mask, grid: Grid) -> Reconstruction:
    """What an encoder sees, where no decoder says anything of the rest: `rebuilt` is `masked`."""
    gray = jnp.full((*mask.masked.shape, grid.patch_dim()), GRAY)
    masked = paste(pixels, gray, mask, grid, grid.tubelet)
    return Reconstruction(jnp.clip(pixels, 0, 1), masked, masked)


def reconstruct(objective, params, inputs) -> Reconstruction:
    """Of the views v of a batch; see `rebuild`."""
    config, views = objective.config, objective.terms.views
    branch = config.video_branch
    about = Predicted(
        decoder_spec(config, branch), video_grid(config), branch.target_norm, config.augment.mean, config.augment.std
    )
    mask, pixels = first_of_mask(inputs.video_mask, views, 1), first_views(inputs.video, views, 1)
    predictions = first_views(objective.forward(params, inputs).video_predictions, min(views, 2), 1)
    return rebuild(pixels, mask, predictions, about)


def denormalize(patches, mean, std):
    """Normalized patches [..., P] back to pixels in 0..1; P runs over channels fastest."""
    count = patches.shape[-1] // 3
    return patches * jnp.tile(jnp.asarray(std), count) + jnp.tile(jnp.asarray(mean), count)


def draw_reconstruction(path, reconstruction: Reconstruction) -> None:
    """Writes a picture with three rows a clip and a column a frame."""
    size, rows = fitted_size(*reconstruction.clip.shape[2:4], side=96), []
    for parts in zip(*map(as_bytes, (reconstruction.clip, reconstruction.masked, reconstruction.rebuilt))):
        for name, frames in zip(("clip", "masked", "reconstruction"), parts):
            rows.append(Row([Cell(frame) for frame in resized(frames, size)], name))
    write_png(path, compose(rows, heads=tuple(f"frame {i + 1}" for i in range(reconstruction.clip.shape[1]))))


def reconstruct_samples(objective, params, samples, count: int) -> Reconstruction:
    """Reconstructs the first `count` clips of a batch of samples; numpy arrays, the same in every process."""
    samples = jax.tree.map(lambda a: a[:count], processes.to_host(samples))
    run = jax.jit(lambda params, samples: reconstruct(objective, params, objective.make_inputs(samples)))
    return jax.tree.map(np.asarray, processes.to_host(run(params, samples)))
