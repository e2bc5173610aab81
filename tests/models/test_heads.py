"""Pooling of visible tokens and the projection head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.heads import ProjectionHead, pool, pool_time_patches
from cvmae.models.patches import Grid

GRID = Grid(8, 16, 16, 2, 8)  # 4 time patches of 4 spatial patches


def test_pool_is_the_mean_in_float32():
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 3)).astype(jnp.bfloat16)
    pooled = pool(tokens)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, np.asarray(tokens, np.float32).mean(1), rtol=1e-6)


def test_pool_time_patches_against_a_loop():
    tokens = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    mask = masking.draw(jax.random.split(jax.random.key(1), 3), GRID, "random", 0.625)
    time_patches = jnp.array([[0, 3], [2, 2], [1, 0]])
    pooled, valid = pool_time_patches(tokens, mask.ids_keep, time_patches, GRID.spatial_patches)
    for b, f in np.ndindex(3, 2):
        rows = [tokens[b, k] for k in range(6) if int(mask.ids_keep[b, k]) // GRID.spatial_patches == int(time_patches[b, f])]
        assert bool(valid[b, f]) == bool(rows)
        np.testing.assert_allclose(pooled[b, f], np.mean(rows, axis=0) if rows else np.zeros(5), rtol=1e-5, atol=1e-6)


def test_a_time_patch_without_visible_tokens_is_marked_and_has_finite_gradients():
    ids = jnp.array([[0, 1, 2, 3]])  # all in time patch 0
    tokens = jnp.ones((1, 4, 2))

    def total(tokens):
        pooled, valid = pool_time_patches(tokens, ids, jnp.array([[0, 2]]), GRID.spatial_patches)
        return pooled.sum(), valid

    (value, valid), gradient = jax.value_and_grad(total, has_aux=True)(tokens)
    assert valid.tolist() == [[True, False]] and value == 2
    np.testing.assert_allclose(gradient, np.full((1, 4, 2), 0.25))


@pytest.mark.parametrize(("layers", "names"), [(1, ["out"]), (2, ["hidden", "out"]), (3, ["hidden", "hidden_2", "out"])])
def test_a_head_is_its_layers_with_relu_between_them(layers, names):
    head = ProjectionHead(hidden=7, width=5, dtype=jnp.bfloat16, layers=layers)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = head.init(jax.random.key(1), x)["params"]
    assert sorted(params) == names
    out = head.apply({"params": params}, x)
    assert out.shape == (2, 3, 5) and out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    expected = x
    for name in names:
        expected = np.maximum(expected, 0) if name != names[0] else expected
        expected = expected @ params[name]["kernel"] + params[name]["bias"]
    np.testing.assert_allclose(out, expected, atol=0.08)
