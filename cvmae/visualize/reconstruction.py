"""Pictures of reconstructions: the clip, what the encoder saw of it, and what the decoder made of that."""

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from cvmae import multihost
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import decoder_spec, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.models.patches import patchify, target_frames, unpatchify

GREY = 0.5


def reconstruct(objective, params, inputs):
    """Clips, masked clips and reconstructions of v, each float32 [B, T, H, W, 3] in 0..1.

    Predictions leave the space of the targets by the true mean and deviation of each patch, so what is shown is the texture that
    was predicted at the brightness that was there. Visible patches are pasted as they are. Where the decoder predicts fewer
    frames than the clip has (mae_st), all three show those frames.
    """
    config, views = objective.config, objective.needs.views
    branch, grid = config.video_branch, video_grid(config)
    spec = decoder_spec(config, branch)
    mask = first_of_mask(inputs.video_mask, views, 1)
    pixels = first_views(inputs.video, views, 1)
    targets = make_targets(objective.target_pixels(pixels, branch), mask, spec, grid, branch.target_norm)
    output = objective.forward(params, inputs)
    hidden = first_views(output.video_predictions, min(views, 2), 1) * targets.deviation + targets.mean
    frames = target_frames(grid.num_frames, spec.target_frames)
    clip = pixels[:, frames]
    patches = patchify(clip, spec.target_tubelet(grid), grid.patch)
    visible = masking.take_visible(patches, mask)
    if branch.target_norm != "patch_channel":  # whose targets are raw pixels already
        hidden = destandardise(hidden, config.augment.mean, config.augment.std)
    filled = [jnp.clip(h, 0, 1) for h in (jnp.full_like(hidden, GREY), hidden)]
    masked, rebuilt = (unpatchify(masking.restore(jnp.concatenate([visible, h], axis=1), mask), grid) for h in filled)
    return jnp.clip(clip, 0, 1), jnp.clip(masked, 0, 1), rebuilt


def destandardise(patches, mean, std):
    """Standardised patches [..., P] back to pixels in 0..1; P runs over channels fastest."""
    count = patches.shape[-1] // 3
    return patches * jnp.tile(jnp.asarray(std), count) + jnp.tile(jnp.asarray(mean), count)


def draw(path, clips, masked, rebuilt) -> None:
    """Writes a picture with three rows a clip and a column a frame; arrays float [B, T, H, W, 3] in 0..1."""
    rows = [(name, row) for c in zip(clips, masked, rebuilt) for name, row in zip(("clip", "masked", "reconstruction"), c)]
    columns = rows[0][1].shape[0]
    figure = matplotlib.figure.Figure(figsize=(1.1 * columns + 1.2, 1.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, frames) in zip(axes, rows):
        for axis, frame in zip(line, np.asarray(frames)):
            axis.imshow(frame, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=110)


def save_reconstructions(path, objective, params, samples, count: int) -> None:
    """Reconstructs the first `count` clips of a batch of samples and writes the picture."""
    samples = jax.tree.map(lambda a: a[:count], multihost.everywhere(samples))
    run = jax.jit(lambda params, samples: reconstruct(objective, params, objective.make_inputs(samples)))
    pictures = multihost.everywhere(run(params, samples))
    if multihost.first():
        draw(path, *pictures)
