"""Mixup, CutMix and soft targets: sums, areas, partners, and the distributions of the weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta, kstest

from cvmae.augment import Mix, mix, multi_hot_targets, soft_targets
from cvmae.augment.mixing import outside_box, symmetric_beta

KEY = jax.random.key(11)
MIXUP, CUTMIX = Mix(cutmix=0.0), Mix(mixup=0.0)


compiled = functools.partial(jax.jit, static_argnums=3)(mix)  # a program for each spec and shape, shared by the tests


def mixed(spec, rows=6, frames=2, height=12, width=16, key=KEY):
    """Mixes clips whose pixels hold the number of their row, with the row as their one-hot target: (clips, targets)."""
    clips = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None, None, None, None], (rows, frames, height, width, 3))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows))
    return [np.asarray(array) for array in compiled(keys, clips, jnp.eye(rows), spec)]


def own_weights(array):
    """Weight in 0..1 of each row's own clip or target in the result of `mixed`."""
    rows = len(array)
    if array.ndim == 2:
        return array[np.arange(rows), np.arange(rows)]
    numbers = np.arange(rows, dtype=float).reshape(-1, 1, 1, 1, 1)
    partners = numbers[::-1]
    return (array - partners) / (numbers - partners)


def test_mixup_has_one_weight_for_pixels_and_target():
    clips, targets = mixed(MIXUP)
    np.testing.assert_allclose(
        own_weights(clips), np.broadcast_to(own_weights(targets)[:, None, None, None, None], clips.shape), atol=1e-5
    )
    assert len(np.unique(own_weights(targets).round(4))) == 6  # each row draws its own


def test_cutmix_moves_a_box_of_all_frames_and_its_exact_area():
    clips, targets = mixed(CUTMIX)
    weights = own_weights(clips)
    np.testing.assert_array_equal(weights, weights[:, :1, :, :, :1] * np.ones_like(weights))
    kept = weights[:, 0, :, :, 0]
    assert set(np.unique(kept)) == {0, 1}
    rows, columns = (kept == 0).any(2), (kept == 0).any(1)
    np.testing.assert_array_equal(kept == 0, rows[:, :, None] & columns[:, None, :])
    np.testing.assert_allclose(own_weights(targets), kept.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("spec", [Mix(), MIXUP, CUTMIX, Mix(probability=0.5)])
def test_targets_sum_to_1_over_a_row_and_its_partner(spec):
    clips, targets = mixed(spec)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert (targets >= 0).all()
    rest = targets * (1 - np.eye(6)) * (1 - np.eye(6)[::-1])
    assert not rest.any()
    assert clips.dtype == targets.dtype == np.float32


def test_the_middle_row_of_an_odd_batch_and_rows_without_a_label():
    clips, targets = mixed(Mix(), rows=3)
    np.testing.assert_array_equal(clips[1], np.ones_like(clips[1]))
    np.testing.assert_allclose(targets[1], [0, 1, 0], atol=1e-6)
    some = soft_targets(jnp.array([-1, 0, 1, 2, 3, -1]), 6, 0.1)
    _, targets = compiled(jax.random.split(KEY, 6), jnp.zeros((6, 2, 12, 16, 3)), some, Mix())
    np.testing.assert_allclose(targets.sum(1), [0, 1, 1, 1, 1, 0], atol=1e-6)


def test_weights_of_mixup_are_beta():
    lam = own_weights(mixed(MIXUP, rows=3000, frames=1, height=1, width=1)[1])
    assert kstest(lam, beta(0.8, 0.8).cdf).pvalue > 0.01


@pytest.mark.parametrize("a", [0.4, 0.8, 1.0, 5.0])
def test_symmetric_beta(a):
    first, second = np.random.default_rng(1).uniform(size=(2, 20000)).astype(np.float32)
    draw = jax.jit(symmetric_beta)
    assert kstest(draw(first, second, a), beta(a, a).cdf).pvalue > 0.01
    first[:3], second[:3] = [0, 0, 0.99999994], [0.0, 0.5, 0.3]
    ends = draw(first, second, a)[:3]
    np.testing.assert_allclose(ends[:2], [1, 0])
    assert 0 <= ends[2] <= 1


def test_cutmix_boxes_are_those_of_timm():
    """Sides of length * sqrt(1 - fraction), half of it rounded down on each side of a middle anywhere in the frame, clipped."""
    draw = jax.jit(jax.vmap(lambda middle, fraction: outside_box(middle, 12, 16, fraction), (0, None)))
    middles = np.random.default_rng(0).uniform(size=(2000, 2)).astype(np.float32)
    for fraction in (0.05, 0.51, 0.9):
        holes = np.asarray(draw(middles, fraction)) == 0
        for axis, length in ((2, 12), (1, 16)):
            half, positions = int(length * np.sqrt(1 - fraction)) // 2, np.arange(length)
            sizes = np.clip(positions + half, 0, length) - np.clip(positions - half, 0, length)
            drawn = holes.any(axis).sum(1)
            assert set(drawn) == set(sizes)
            assert abs(drawn.mean() - sizes.mean()) < 0.15
            expected = [((positions - half <= x) & (x < positions + half)).mean() for x in range(length)]
            np.testing.assert_allclose(holes.any(axis).mean(0), expected, atol=0.05)


@pytest.mark.parametrize("spec, cut, untouched", [(Mix(), 0.5, 0), (Mix(switch=0.2, probability=0.6), 0.12, 0.4), (CUTMIX, 1, 0)])
def test_how_often_rows_are_cut_or_left(spec, cut, untouched):
    weights = own_weights(mixed(spec, rows=2000, frames=1, height=32, width=32)[0])[:, 0, :, :, 0]
    blended = ((weights > 1e-3) & (weights < 1 - 1e-3)).all((1, 2))
    left = (weights > 1 - 1e-3).all((1, 2))
    assert abs(left.mean() - untouched) < 0.05
    assert abs((~blended & ~left).mean() - cut) < 0.05


def test_the_weight_of_a_row_does_not_depend_on_the_others():
    few, many = (own_weights(mixed(Mix(), rows=rows)[1]) for rows in (4, 6))
    np.testing.assert_allclose(few, many[:4], atol=1e-6)


@pytest.mark.parametrize("spec", [Mix(mixup=0.0, cutmix=0.0), Mix(probability=0.0)])
def test_a_spec_that_mixes_nothing_returns_its_arguments(spec):
    clips, targets = jnp.ones((2, 1, 4, 4, 3)), jnp.eye(2)
    mixed_clips, mixed_targets = mix(jax.random.split(KEY, 2), clips, targets, spec)
    assert mixed_clips is clips and mixed_targets is targets


def test_soft_targets():
    np.testing.assert_allclose(
        soft_targets(jnp.array([2, -1, 0]), 4, 0.1),
        [[0.025, 0.025, 0.925, 0.025], [0] * 4, [0.925, 0.025, 0.025, 0.025]],
        atol=1e-6,
    )
    np.testing.assert_array_equal(soft_targets(jnp.array([1]), 3), [[0, 1, 0]])


@pytest.mark.parametrize("field", [{"mixup": -0.1}, {"cutmix": -1.0}, {"probability": 2.0}, {"switch": -0.5}])
def test_bad_fields(field):
    with pytest.raises(ValueError, match="expected mixup and cutmix"):
        Mix(**field)


def test_targets_of_several_labels():
    sets = np.array([[True, False, False, True], [False, True, False, False]])
    found = multi_hot_targets(jnp.array([0, 1, -1]), jnp.asarray(sets), 0.2)
    np.testing.assert_allclose(found, [[0.85, 0.05, 0.05, 0.85], [0.05, 0.85, 0.05, 0.05], [0, 0, 0, 0]], rtol=1e-6)
    one = jnp.array([2, 0, -1])
    for smoothing in (0.0, 0.1):
        np.testing.assert_allclose(
            multi_hot_targets(one, jnp.eye(4, dtype=bool), smoothing), soft_targets(one, 4, smoothing), rtol=1e-6
        )
