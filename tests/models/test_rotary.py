"""Rotary positions: angles of every axis, tokens without a position, and the same numbers by every way to run the blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking, rotary
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize

GRID = Grid(4, 16, 24, 2, 8)
TRUNK = TransformerConfig(ViTSize(32, 2, 2))  # heads of 16 values: 4 for each axis, and 4 that are not rotated


def test_angles_are_those_of_time_row_and_column():
    cos, sin = np.split(rotary.table(GRID, 16), 2, axis=1)
    assert cos.shape == (GRID.tokens, 12)
    frequency = np.array([1.0, 0.01])
    for token, coordinates in enumerate(np.ndindex(GRID.shape)):
        angle = np.concatenate([np.tile(place * frequency, 2) for place in coordinates])
        np.testing.assert_allclose(cos[token], np.cos(angle), atol=1e-6)
        np.testing.assert_allclose(sin[token], np.sin(angle), atol=1e-6)


def test_values_beyond_the_three_axes_and_the_first_token_stay():
    x = np.random.default_rng(0).normal(size=(2, GRID.tokens, 32)).astype(np.float32)
    rotate = jax.jit(rotary.rotate, static_argnums=2)
    rotated = rotate(x, rotary.table(GRID, 16), 2)
    by_head, before = (np.asarray(a).reshape(2, GRID.tokens, 2, 16) for a in (rotated, x))
    np.testing.assert_array_equal(by_head[..., 12:], before[..., 12:])
    np.testing.assert_array_equal(by_head[:, 0], before[:, 0])  # the angles of the first are zero
    assert (by_head[:, -1, :, :12] != before[:, -1, :, :12]).all()
    rows = rotary.unrotated(3, rotary.table(GRID, 16))
    np.testing.assert_array_equal(rotate(x[:, :3], rows, 2), x[:, :3])


CLIP = np.random.default_rng(1).normal(size=(2, 4, 16, 24, 3)).astype(np.float32)


def encoder(**fields) -> Encoder:
    return Encoder(dataclasses.replace(TRUNK, **fields), GRID, "rope3d", cls_token=True, registers=2)


@jax.jit
def mask():
    return masking.draw(jax.random.split(jax.random.key(2), 2), GRID, "random", 0.5)


def loss_and_gradients(encoder, params):
    loss = jax.value_and_grad(lambda p, mask: jnp.square(encoder.apply(p, CLIP, mask).tokens * 0.1).sum())
    return jax.tree.leaves(jax.jit(loss)(params, mask()))


@pytest.fixture(scope="module")
def plain():
    """Parameters, and the loss with its gradients, of blocks one after the other."""
    params = jax.jit(encoder().init)(jax.random.key(0), CLIP, mask())
    return params, loss_and_gradients(encoder(), params)


@pytest.mark.parametrize("changes", [{"scan": True}, {"remat": "full"}, {"attention": "blocked"}], ids=str)
def test_every_way_to_run_the_blocks_gives_the_same(changes, plain):
    """Visible tokens of a masked clip behind cls and registers, and their gradients."""
    params, expected = plain
    assert "positions" not in params["params"]
    for one, two in zip(loss_and_gradients(encoder(**changes), params), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="positions='rope3d' needs attention heads of 6 values or more, these have 4"):
        rotary.table(GRID, 4)
    with pytest.raises(ValueError, match="decoder.positions is 'rope3d'; expected one of separable, learned, sincos1d"):
        DecoderSpec(TRUNK, positions="rope3d")  # type: ignore[arg-type]
