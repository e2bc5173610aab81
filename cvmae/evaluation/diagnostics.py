"""Diagnostics of pre-training: effective rank, CKA of two encoders, the contrast without color, reconstruction beside simple baselines."""

import einops
import jax
import jax.numpy as jnp
import numpy as np

from cvmae import augment
from cvmae.evaluation.features import encode_pixels
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import build_encoder, decoder_spec, image_grid, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.models.patches import Grid
from cvmae.objective import losses
from cvmae.objective.views_and_masks import ModelInputs, view_spec

VIEW_FEATURES = ("v", "v_plus", "frames")


def effective_rank(features) -> float:
    """Computes the effective rank of features: the number of directions in which the clips differ, each by its share.

    It is exp(entropy) of the singular values divided by their sum (Roy & Vetterli 2007), which RankMe (Garrido et al. 2023,
    arXiv 2210.02885) takes as a measure of pre-trained features. The features are centered first, unlike there: what all clips
    have in common tells none of them apart.

    Args:
      features: [n, D].

    Returns:
      1 (they differ along one direction) to min(n - 1, D) (along all, equally); 0 where all rows are equal, NaN where a value is
      not finite.
    """
    centered = _centered(features)
    if not np.isfinite(centered).all():
        return float("nan")
    if not centered.any():
        return 0.0
    # The eigenvalues of the smaller Gram matrix are the squares of the singular values, up to rounding.
    eigenvalues = np.linalg.eigvalsh(_smaller_gram(centered))
    rounding = max(centered.shape) * np.finfo(np.float64).eps * eigenvalues[-1]
    values = np.sqrt(eigenvalues[eigenvalues > rounding])
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def linear_cka(one, two) -> float:
    """Computes the linear centered kernel alignment (CKA) of two sets of features of the same clips (Kornblith et al. 2019).

    ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), Frobenius norms of centered features. Rotating or scaling either set changes nothing. Unrelated
    features with d equally strong directions give about d / (n + d), so few clips of wide features look alike by chance.

    Args:
      one: X, [n, D].
      two: Y, [n, E], with the same clips in its rows.

    Returns:
      0 (nothing in common) to 1 (the same arrangement of the clips); NaN where all rows of a set are equal or not finite.

    Raises:
      ValueError: the numbers of rows differ.
    """
    one, two = _centered(one), _centered(two)
    if len(one) != len(two):
        raise ValueError(f"CKA compares features of the same clips: expected as many rows, not {len(one)} and {len(two)}")
    norms = np.linalg.norm(_smaller_gram(one)) * np.linalg.norm(_smaller_gram(two))
    return float(np.square(two.T @ one).sum() / norms) if norms > 0 else float("nan")


def _centered(features):
    """Returns features [n, D] minus their mean, float64; zeros where the rows differ by no more than float32 rounding."""
    features = np.asarray(features, np.float64)
    centered = features - features.mean(0)
    # Rounding has no direction: collapsed features would get a high rank by it.
    return np.where(np.linalg.norm(centered) <= np.finfo(np.float32).eps * np.linalg.norm(features), 0.0, centered)


def _smaller_gram(features):
    """Returns X Xᵀ or Xᵀ X, whichever is smaller; they have the same Frobenius norm and nonzero eigenvalues."""
    return features @ features.T if len(features) < features.shape[1] else features.T @ features


def without_color(inputs: ModelInputs) -> ModelInputs:
    """Returns the inputs with gray views and frames (luma); crops, masks and brightness stay."""
    names = ("video", "image", "video_patches", "image_patches")
    pixels = {name: getattr(inputs, name) for name in names}
    return inputs.replace(**{name: _to_gray(array) for name, array in pixels.items() if array is not None})


def _to_gray(pixels):
    """Returns gray pixels [..., 3], or patches [..., P] whose fastest axis within P are the channels."""
    return augment.to_gray(pixels.reshape(*pixels.shape[:-1], -1, 3)).reshape(pixels.shape)


def accuracies_in_gray(objective, params, samples) -> dict:
    """Computes the accuracy of every contrastive term for gray views and frames, as `gray_accuracy/TERM`, float32 scalars."""
    inputs = without_color(objective.step_inputs(samples, params))
    _, metrics = objective.loss_and_metrics(objective.forward(params, inputs), inputs)
    return {f"gray_{name}": value for name, value in metrics.items() if name.startswith("accuracy/")}


def view_features(objective, params, samples) -> dict:
    """Computes features of unmasked clips, float32: of two views, v and v⁺, and of the sampled frames with the image encoder.

    Returns:
      `v` and `v_plus`, [B, D]; with an image branch `frames`, [B, D], the mean over the F frames of a clip.
    """
    config, rules, has_image = objective.config, objective.rules, objective.terms.image_branch
    spec = view_spec(config, 2)
    views, frames = jax.vmap(lambda k, v, i: augment.make_views(k, v, i, spec, has_image))(
        samples["views"], samples["video"], samples["frame_index"]
    )
    encoder = build_encoder(config, config.video_branch, video_grid(config), rules=rules)
    video = {
        name: encode_pixels(config, encoder, params["video"]["encoder"], views[:, i]) for i, name in enumerate(("v", "v_plus"))
    }
    if frames is None:
        return video
    encoder = build_encoder(config, config.image_branch, image_grid(config), rules=rules)
    clips = einops.rearrange(frames, "b f h w c -> (b f) 1 h w c")
    pooled = encode_pixels(config, encoder, params["image"]["encoder"], clips)
    return video | {"frames": einops.reduce(pooled, "(b f) d -> b d", "mean", f=frames.shape[1])}


def reconstruction_errors(objective, params, samples) -> dict:
    """Computes the errors on the masked patches of the view v, in the space of the targets, float32 scalars.

    Returns:
      `reconstruction/model`, of the predictions; `reconstruction/mean_patch`, of the mean of the clip's visible patches;
      `reconstruction/nearest_patch`, of the visible patch nearest in (time, row, column).
    """
    inputs = objective.make_inputs(samples)
    config, views = objective.config, objective.terms.views
    branch, grid = config.video_branch, video_grid(config)
    mask = first_of_mask(inputs.video_mask, views, 1)
    pixels = objective.target_pixels(first_views(inputs.video, views, 1), branch)
    targets = make_targets(pixels, None, decoder_spec(config, branch), grid, branch.target_norm).values
    masked, visible = masking.take_masked(targets, mask), masking.take_visible(targets, mask)
    output = objective.forward(params, inputs)
    predictions = first_views(output.video_predictions, min(views, 2), 1)
    nearest = jnp.take_along_axis(visible, nearest_visible(mask, grid)[..., None], axis=1)
    guesses = {"model": predictions, "mean_patch": visible.mean(1, keepdims=True), "nearest_patch": nearest}
    return {f"reconstruction/{name}": losses.masked_mse(guess, masked).mean() for name, guess in guesses.items()}


def nearest_visible(mask: masking.Mask, grid: Grid):
    """Returns, for each masked patch, the index of the nearest visible one among these, int32 [B, N - K]; ties take the first."""
    axes = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    positions = jnp.asarray(np.stack([axis.reshape(-1) for axis in axes], axis=1), jnp.float32)
    offsets = positions[mask.masked][:, :, None] - positions[mask.ids_keep][:, None]
    return jnp.square(offsets).sum(-1).argmin(-1)
