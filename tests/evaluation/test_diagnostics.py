"""Effective rank and CKA against numpy and scikit-learn by other routes, their invariances, and clips without color."""

import jax
import numpy as np
import pytest
from sklearn.preprocessing import KernelCenterer

from cvmae.evaluation.diagnostics import accuracies_in_gray, effective_rank, linear_cka, without_color
from cvmae.models.patches import patchify
from cvmae.objective.objective import Objective
from tests.tiny_configs import config, samples


def features(seed, n, d, strength=1.0):
    """Random features, float32 [n, D], off the origin, with a spectrum that falls with `strength`."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, d)) / np.arange(1, d + 1) ** strength @ rotation(seed, d) + 3).astype(np.float32)


def rotation(seed, d):
    return np.linalg.qr(np.random.default_rng(seed + 100).normal(size=(d, d)))[0]


@pytest.mark.parametrize("n, d, strength", [(60, 24, 0.0), (24, 60, 1.0), (500, 96, 3.0), (33, 33, 0.5), (2, 5, 1.0)])
def test_effective_rank_is_the_exponential_of_the_entropy_of_numpys_singular_values(n, d, strength):
    values = features(0, n, d, strength)
    singular = np.linalg.svd(values - values.astype(np.float64).mean(0), compute_uv=False)
    shares = singular[singular > 1e-9 * singular[0]] / singular.sum()
    assert effective_rank(values) == pytest.approx(np.prod(shares**-shares), rel=1e-5)


def test_effective_rank_counts_equal_directions_and_ignores_rotation_scale_and_offset():
    # The vertices of a simplex differ in every direction but one alike.
    assert effective_rank(np.eye(7)) == pytest.approx(6)
    assert effective_rank(np.outer(np.arange(9), np.arange(5))) == pytest.approx(1)
    values = features(1, 80, 12)
    moved = values @ rotation(3, 12) * 40 + 7
    assert effective_rank(moved) == pytest.approx(effective_rank(values), rel=1e-5)


def test_collapsed_features_have_no_rank_although_they_are_rounded():
    assert effective_rank(np.full((50, 8), 0.1, np.float32)) == 0
    row = features(2, 1, 64)
    rounded = np.repeat(row, 50, 0) * (1 + np.random.default_rng(0).uniform(-5e-8, 5e-8, (50, 64)))
    assert effective_rank(rounded.astype(np.float32)) == 0
    assert np.isnan(effective_rank([[1.0, np.nan], [0.0, 1.0]]))


@pytest.mark.parametrize("n, d, e", [(50, 12, 20), (12, 50, 7), (10, 30, 40)])
def test_cka_is_the_normalized_hsic_of_centered_gram_matrices(n, d, e):
    one, two = features(0, n, d), features(1, n, e)
    two[:, :3] += one[:, :3]
    grams = [KernelCenterer().fit_transform(x @ x.T) for x in (one.astype(np.float64), two.astype(np.float64))]
    hsic = [[np.trace(a @ b) / (n - 1) ** 2 for b in grams] for a in grams]
    expected = hsic[0][1] / np.sqrt(hsic[0][0] * hsic[1][1])
    assert 0.05 < expected < 0.95 and linear_cka(one, two) == pytest.approx(expected, rel=1e-9)


def test_cka_is_invariant_to_rotation_scale_and_offset_but_not_to_the_strength_of_directions():
    one, two = features(0, 90, 16), features(0, 90, 16)
    assert linear_cka(one, two) == pytest.approx(1)
    assert linear_cka(one, 5 * two @ rotation(4, 16) + 2) == pytest.approx(1)
    assert linear_cka(one, two * np.geomspace(1, 30, 16)) < 0.95
    assert linear_cka(one, features(1, 90, 8)) == pytest.approx(linear_cka(features(1, 90, 8), one))


def test_unrelated_features_have_the_cka_that_the_number_of_clips_gives_by_chance():
    draw = np.random.default_rng(5)
    for n, d in ((100, 50), (20_000, 8)):
        one, two = draw.normal(size=(2, n, d))
        assert linear_cka(one, two) == pytest.approx(d / (n + d), rel=0.15)
    assert linear_cka(one, two) < 1e-3


def test_cka_needs_the_same_clips_and_features_that_differ():
    with pytest.raises(ValueError, match="expected as many rows, not 4 and 5"):
        linear_cka(np.eye(4), np.eye(5))
    assert np.isnan(linear_cka(np.full((5, 3), 0.1), np.eye(5)))
    assert np.isnan(linear_cka(np.full((5, 5), np.nan), np.eye(5)))


@pytest.fixture(scope="module")
def world():
    plain = {f"augment__{name}": 0.0 for name in ("flip", "color_probability")}
    c = config(video_branch__mask__ratio=0.25, image_branch__mask__ratio=0.25, **plain)
    objective = Objective(c)
    return objective, jax.jit(objective.init)(jax.random.key(0), samples(c, 2))


def test_gray_inputs_differ_in_nothing_but_color(world):
    objective, _ = world
    inputs = jax.jit(objective.step_inputs)(samples(objective.config, 3))
    gray = jax.jit(without_color)(inputs)
    luma = np.asarray(inputs.video, np.float64) @ [0.299, 0.587, 0.114]
    assert np.ptp(gray.video, axis=-1).max() == 0 and np.ptp(gray.image, axis=-1).max() == 0
    np.testing.assert_allclose(gray.video[..., 1], luma, atol=1e-6)
    for video, patches, spec in (
        (gray.video, gray.video_patches, objective.make_inputs.video_mask),
        (gray.image, gray.image_patches, objective.make_inputs.image_mask),
    ):
        np.testing.assert_allclose(patches, patchify(video, spec.grid.tubelet, spec.grid.patch), atol=1e-6)
    for name in ("video_mask", "image_mask", "slots"):
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), getattr(gray, name), getattr(inputs, name)))


def test_accuracy_in_gray_falls_to_chance_where_only_color_tells_clips_apart(world):
    """Clips of one color each, which differ in hue but not in luma, or in luma but not in hue; views differ in their masks."""
    objective, params = world
    # Integers whose luma, 0.299 R + 0.587 G + 0.114 B, is 128 exactly, and so without rounding.
    hues = [
        (r, (128_000 - 299 * r - 114 * b) // 587, b)
        for r in range(40, 160)
        for b in range(40, 160)
        if (128_000 - 299 * r - 114 * b) % 587 == 0
    ]
    colors = {"hue": hues[:: len(hues) // 8][:8], "luma": [[shade] * 3 for shade in range(20, 250, 30)]}
    accuracies = {}
    for name, rows in colors.items():
        batch = samples(objective.config, 8)
        batch["video"] = np.broadcast_to(np.array(rows, np.uint8)[:, None, None, None], batch["video"].shape)
        color = jax.jit(objective)(params, batch)[1]
        gray = jax.jit(accuracies_in_gray, static_argnums=0)(objective, params, batch)
        assert gray.keys() == {f"gray_{metric}" for metric in color if metric.startswith("accuracy/")} and len(gray) == 4
        accuracies[name] = float(color["accuracy/intra_video"]), float(gray["gray_accuracy/intra_video"])
    assert accuracies["hue"][0] > 0.8 and accuracies["hue"][1] < 0.3
    assert accuracies["luma"][0] == accuracies["luma"][1] > 0.8
