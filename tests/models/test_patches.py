"""Patches: order, inverse, errors with the fix; targets in the three norms."""

import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models.patches import Grid, normalize_targets, patchify, target_frames, unpatchify

GRID = Grid(4, 16, 24, 2, 8)


def clip(batch: int = 2, grid: Grid = GRID):
    shape = (batch, grid.num_frames, grid.height, grid.width, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_grid():
    assert (GRID.time_patches, GRID.rows, GRID.columns, GRID.spatial_patches, GRID.tokens) == (2, 2, 3, 6, 12)
    assert GRID.shape == (2, 2, 3) and GRID.patch_dim() == 2 * 8 * 8 * 3
    assert Grid(16, 224, 224, 2, 16).tokens == 1568 and Grid(16, 224, 224, 2, 16).patch_dim() == 1536


def test_order_of_tokens_and_values_by_index():
    video = clip()
    tokens = np.asarray(patchify(video, GRID.tubelet, GRID.patch))
    assert tokens.shape == (2, GRID.tokens, GRID.patch_dim())
    for t, h, w in np.ndindex(GRID.shape):
        cut = video[:, 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8]
        np.testing.assert_array_equal(tokens[:, (t * GRID.rows + h) * GRID.columns + w], cut.reshape(2, -1))


def test_unpatchify_is_the_inverse():
    video = clip()
    np.testing.assert_array_equal(unpatchify(patchify(video, GRID.tubelet, GRID.patch), GRID), video)


def test_unpatchify_of_fewer_frames_than_the_tubelet():
    """mae_st predicts one frame of a tubelet of two."""
    tokens = patchify(clip()[:, [0, 3]], 1, GRID.patch)
    np.testing.assert_array_equal(unpatchify(tokens, GRID), clip()[:, [0, 3]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((5, 16, 16, 2, 8), "num_frames=5 is not a multiple of the tubelet size 2: take num_frames=4 or 6"),
        ((4, 20, 16, 2, 8), "height=20 is not a multiple of the patch size 8: take height=16 or 24"),
        ((4, 16, 7, 2, 8), "width=7 is not a multiple of the patch size 8: take width=8$"),
        ((0, 16, 16, 2, 8), "take num_frames=2$"),
        ((4, 16, 16, 0, 8), "tubelet=0 must be at least 1"),
    ],
)
def test_sides_that_do_not_divide(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


@pytest.mark.parametrize("count, frames", [(0, range(16)), (16, range(16)), (8, [0, 2, 4, 6, 8, 10, 12, 15]), (1, [0])])
def test_target_frames(count, frames):
    np.testing.assert_array_equal(target_frames(16, count), list(frames))


def test_norm_patch():
    patches = np.random.default_rng(1).normal(3, 2, size=(2, 5, 48)).astype(np.float32)
    values, mean, std = normalize_targets(patches, "patch")
    exact = patches.astype(np.float64)
    m, v = exact.mean(-1, keepdims=True), exact.var(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(values, (exact - m) / np.sqrt(v + 1e-6), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values * std + mean, patches, rtol=1e-5, atol=1e-5)


def test_norm_patch_channel():
    patches = np.random.default_rng(1).uniform(size=(2, 5, 48)).astype(np.float32)
    values, mean, std = normalize_targets(patches, "patch_channel")
    exact = patches.astype(np.float64).reshape(2, 5, 16, 3)
    m, v = exact.mean(-2, keepdims=True), exact.var(-2, ddof=1, keepdims=True)
    np.testing.assert_allclose(values, ((exact - m) / (np.sqrt(v) + 1e-6)).reshape(2, 5, 48), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values * std + mean, patches, rtol=1e-5, atol=1e-5)


def test_the_two_norms_differ_and_none_changes_nothing():
    patches = np.random.default_rng(1).uniform(size=(2, 5, 48)).astype(np.float32)
    by_patch, by_channel = (np.asarray(normalize_targets(patches, n)[0]) for n in ("patch", "patch_channel"))
    assert np.abs(by_patch - by_channel).max() > 0.01
    values, mean, std = normalize_targets(patches, "none")
    np.testing.assert_array_equal(values, patches)
    np.testing.assert_array_equal(values * std + mean, patches)


@pytest.mark.parametrize("norm", ["patch", "patch_channel"])
def test_where_eps_stands(norm):
    """A patch of two values 0 and 2e: inside the square root eps outweighs a variance of 1e-8, outside it hardly shows."""
    small = 1e-4
    patches = jnp.tile(jnp.array([0.0, 0.0, 0.0, small, small, small]), 8)[None]
    _, _, std = normalize_targets(patches, norm)
    values = np.tile([0.0, small], 8) if norm == "patch_channel" else np.asarray(patches[0], np.float64)
    variance = values.var(ddof=1)
    expected = np.sqrt(variance) + 1e-6 if norm == "patch_channel" else np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(np.asarray(std).ravel()[0], expected, rtol=1e-3)


@pytest.mark.parametrize("norm", ["patch", "patch_channel"])
def test_flat_patches_stay_finite(norm):
    """A black border or a frozen frame has no variance."""
    values, _, _ = normalize_targets(jnp.full((1, 2, 48), 0.5), norm)
    assert np.isfinite(values).all() and np.abs(values).max() < 1e-3


def test_targets_are_float32_whatever_comes_in():
    assert normalize_targets(jnp.ones((1, 6), jnp.bfloat16), "patch")[0].dtype == jnp.float32


def test_unknown_norm():
    with pytest.raises(ValueError, match="expected one of patch, patch_channel, none"):
        normalize_targets(jnp.zeros((1, 3)), "channel")
