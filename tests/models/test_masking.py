"""Masks: fixed counts, independent samples, permutations; and gathers whose gradients hold no scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.patches import Grid

GRID = Grid(8, 32, 24, 2, 8)  # 4 time patches of 4 x 3 spatial patches
SSV2 = Grid(16, 224, 224, 2, 16)


# Compiled as a whole: op by op, every operation of every shape would be a program of its own.
draw_masks = jax.jit(masking.draw, static_argnums=(1, 2, 3, 4))


def draw(kind: str, ratio: float, rounding: str = "up", batch: int = 3, seed: int = 0, grid: Grid = GRID):
    return draw_masks(jax.random.split(jax.random.key(seed), batch), grid, kind, ratio, rounding)


@pytest.mark.parametrize("rounding", masking.ROUNDINGS)
@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.75])
@pytest.mark.parametrize("kind", masking.KINDS)
def test_every_kind_is_a_permutation_of_fixed_count(kind, ratio, rounding):
    mask = draw(kind, ratio, rounding)
    assert mask.ids_shuffle.shape == mask.ids_restore.shape == (3, GRID.tokens)
    np.testing.assert_array_equal(np.sort(mask.ids_shuffle), np.tile(np.arange(GRID.tokens), (3, 1)))
    np.testing.assert_array_equal(
        np.take_along_axis(mask.ids_shuffle, mask.ids_restore, 1), np.tile(np.arange(GRID.tokens), (3, 1))
    )
    assert mask.num_visible == masking.visible_tokens(GRID, kind, ratio, rounding)
    assert mask.ids_keep.shape == (3, mask.num_visible)
    assert mask.masked.shape == (3, GRID.tokens - mask.num_visible)
    hidden = np.asarray(mask.hidden)
    np.testing.assert_array_equal(hidden.sum(1), GRID.tokens - mask.num_visible)
    for b in range(3):
        assert set(np.flatnonzero(hidden[b])) == set(np.asarray(mask.masked[b]))


def test_tube_masks_the_same_positions_in_every_time_patch():
    hidden = np.asarray(draw("tube", 0.75).hidden).reshape(3, GRID.time_patches, GRID.spatial_patches)
    assert (hidden == hidden[:, :1]).all()
    assert (hidden[:, 0].sum(-1) == 9).all()


def test_frame_masks_entire_time_patches():
    hidden = np.asarray(draw("frame", 0.5).hidden).reshape(3, GRID.time_patches, GRID.spatial_patches)
    assert (hidden == hidden[:, :, :1]).all()
    assert (hidden[:, :, 0].sum(-1) == 2).all()


@pytest.mark.parametrize("kind", ["tube", "frame"])
def test_block_kinds_keep_the_order_of_the_grid(kind):
    mask = draw(kind, 0.5)
    assert (np.diff(mask.ids_keep) > 0).all() and (np.diff(mask.masked) > 0).all()


@pytest.mark.parametrize("kind", masking.KINDS)
def test_a_sample_depends_on_its_own_key_alone(kind):
    keys = jax.random.split(jax.random.key(5), 16)
    batch = draw_masks(keys, GRID, kind, 0.5)
    part = draw_masks(keys[6:9], GRID, kind, 0.5)
    np.testing.assert_array_equal(batch.ids_shuffle[6:9], part.ids_shuffle)
    assert len({tuple(row) for row in np.asarray(batch.hidden).tolist()}) > 3


def test_random_masks_are_uniform():
    """Each token is visible at the rate of the ratio: 2,000 draws, five standard deviations."""
    hidden = np.asarray(draw("random", 0.75, batch=2000).hidden)
    rate = hidden.mean(0)
    assert np.abs(rate - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 2000)


@pytest.mark.parametrize(
    "count, ratio, rounding, kept",
    [
        (1568, 0.9, "up", 157),
        (1568, 0.9, "down", 156),
        (196, 0.9, "up", 20),
        (196, 0.75, "up", 49),
        (196, 0.75, "down", 49),
        (1568, 0.95, "up", 79),
        (8, 0.5, "up", 4),
    ],
)
def test_counts(count, ratio, rounding, kept):
    assert masking.visible_count(count, ratio, rounding) == kept


@pytest.mark.parametrize("kind, ratio, kept", [("random", 0.9, 157), ("tube", 0.9, 160), ("frame", 0.5, 784)])
def test_counts_of_the_full_grid(kind, ratio, kept):
    assert masking.visible_tokens(SSV2, kind, ratio) == kept


@pytest.mark.parametrize("ratio, rounding", [(1.0, "up"), (0.0, "up"), (0.99, "down"), (0.01, "up"), (-1.0, "down")])
def test_ratios_that_leave_nothing_are_refused(ratio, rounding):
    with pytest.raises(ValueError, match="at least 1 must be visible and 1 masked"):
        masking.visible_count(10, ratio, rounding)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of up, down"):
        masking.visible_count(10, 0.5, "nearest")
    with pytest.raises(ValueError, match="expected one of random, tube, frame"):
        draw("cube", 0.5)
    with pytest.raises(ValueError, match="visible and 1 masked"):
        draw("frame", 0.9, "down")


def test_from_hidden_keeps_the_order_of_the_grid():
    hidden = jnp.array([[True, False, True, False, False], [False, False, True, True, False]])
    mask = masking.from_hidden(hidden, 3)
    np.testing.assert_array_equal(mask.ids_keep, [[1, 3, 4], [0, 1, 4]])
    np.testing.assert_array_equal(mask.masked, [[0, 2], [2, 3]])
    np.testing.assert_array_equal(mask.hidden, hidden)


def test_from_noise_keeps_the_lowest():
    mask = masking.from_noise(jnp.array([[0.3, 0.1, 0.9, 0.2]]), 2)
    np.testing.assert_array_equal(mask.ids_keep, [[1, 3]])
    np.testing.assert_array_equal(mask.masked, [[0, 2]])


def naive(x, index):
    return jnp.take_along_axis(x, index[..., None], axis=1)


TAKES = {
    "visible": (masking.take_visible, lambda x, m: naive(x, m.ids_keep), (3, GRID.tokens, 5)),
    "masked": (masking.take_masked, lambda x, m: naive(x, m.masked), (3, GRID.tokens, 5)),
    "restore": (masking.restore, lambda x, m: naive(x, m.ids_restore), (3, GRID.tokens, 5)),
    "rows of visible": (masking.gather_visible_rows, lambda x, m: x[m.ids_keep], (GRID.tokens, 5)),
    "rows of masked": (masking.gather_masked_rows, lambda x, m: x[m.masked], (GRID.tokens, 5)),
}


@pytest.mark.parametrize("kind", masking.KINDS)
@pytest.mark.parametrize("name", TAKES)
def test_values_and_gradients_of_gathers(name, kind):
    """Against take_along_axis, whose gradient is a scatter."""
    take, reference, shape = TAKES[name]
    mask = draw(kind, 0.5)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=jax.eval_shape(take, x, mask).shape).astype(np.float32)

    def weighted(function):
        def loss(x):
            out = function(x, mask)
            return (out * weight).sum(), out

        return jax.jit(jax.grad(loss, has_aux=True))

    gathered, reference_gradient = weighted(take), weighted(reference)
    (gradient, out), (expected_gradient, expected) = gathered(x), reference_gradient(x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-6)
    assert "scatter" in reference_gradient.lower(x).as_text()  # else the next line would show nothing
    assert "scatter" not in gathered.lower(x).as_text()


def test_restore_undoes_the_shuffle():
    mask = draw("random", 0.6)
    x = np.random.default_rng(3).normal(size=(3, GRID.tokens, 4)).astype(np.float32)

    @jax.jit
    def shuffle_and_back(x):
        shuffled = jnp.concatenate([masking.take_visible(x, mask), masking.take_masked(x, mask)], axis=1)
        return masking.restore(shuffled, mask)

    np.testing.assert_array_equal(shuffle_and_back(x), x)


def test_masks_are_the_same_under_jit():
    keys = jax.random.split(jax.random.key(0), 4)
    eager = masking.draw(keys, GRID, "random", 0.75)
    jitted = jax.jit(lambda k: masking.draw(k, GRID, "random", 0.75))(keys)
    np.testing.assert_array_equal(eager.ids_shuffle, jitted.ids_shuffle)
    assert jitted.num_visible == eager.num_visible


@pytest.mark.parametrize(
    "kind, ratio", [("random", 0.9), ("random", 0.75), ("random", 0.5), ("frame", 0.5), ("frame", 0.75), ("tube", 0.75)]
)
@pytest.mark.parametrize("grid", [Grid(8, 32, 32, 2, 16), Grid(16, 32, 64, 2, 16), Grid(8, 64, 64, 2, 16)])
def test_the_probability_of_a_visible_time_patch_is_the_frequency(kind, ratio, grid):
    mask = draw(kind, ratio, batch=4000, grid=grid)
    visible = ~np.asarray(mask.hidden).reshape(4000, grid.time_patches, grid.spatial_patches)
    expected = masking.visible_time_patch_probability(grid, kind, ratio)
    np.testing.assert_allclose(visible.any(-1).mean(0), expected, atol=0.04)
