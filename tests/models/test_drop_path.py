"""Stochastic depth: its rates, branches dropped for entire samples, and one draw a sample that does not depend on its row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models.layers import drop_path_rates, drop_samples
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize

GRID = Grid(2, 16, 16, 2, 8)


def keys_of(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def test_rates_rise_linearly_to_the_last_block():
    # VideoMAE and MAE fine-tune ViT-B with 0.1 over 12 blocks.
    np.testing.assert_allclose(drop_path_rates(0.1, 12), np.linspace(0, 0.1, 12), rtol=1e-12)
    assert drop_path_rates(0.2, 1) == [0.0]


def test_dropped_samples_are_zero_and_the_others_scaled_up():
    x = jnp.ones((4000, 3, 2))
    dropped = np.asarray(drop_samples(keys_of(4000), x, 0.25))
    values = dropped.reshape(4000, -1)
    assert (values == values[:, :1]).all()
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.75], rtol=1e-6)
    assert (values[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_nothing_is_dropped_without_keys_or_rate():
    x = jnp.ones((4, 3))
    assert drop_samples(None, x, 0.5) is x and drop_samples(keys_of(4), x, 0.0) is x


def encoder(rate: float) -> Encoder:
    return Encoder(TransformerConfig(ViTSize(16, 3, 2), drop_path=rate), GRID, "sincos1d")


def test_an_encoder_drops_by_the_key_of_each_sample():
    clips = np.random.default_rng(1).normal(size=(8, 2, 16, 16, 3)).astype(np.float32)
    params = jax.jit(encoder(0.0).init)(jax.random.key(0), clips)
    whole, dropping = (jax.jit(encoder(rate).apply) for rate in (0.0, 0.5))
    complete = whole(params, clips).tokens
    np.testing.assert_array_equal(dropping(params, clips).tokens, complete)
    dropped = dropping(params, clips, drop_keys=keys_of(8)).tokens
    changed = np.abs(dropped - complete).max((1, 2)) > 1e-3
    assert changed.any()
    alone = dropping(params, clips[5:6], drop_keys=keys_of(8)[5:6]).tokens
    np.testing.assert_allclose(alone, dropped[5:6], atol=1e-5)
    other = dropping(params, clips, drop_keys=keys_of(8, seed=7)).tokens
    assert np.abs(other - dropped).max() > 1e-3


def test_blocks_and_branches_draw_apart():
    clip = np.repeat(np.random.default_rng(1).normal(size=(1, 2, 16, 16, 3)).astype(np.float32), 300, axis=0)
    net = encoder(0.5)
    params = jax.jit(net.init)(jax.random.key(0), clip[:1])
    tokens = np.asarray(jax.jit(net.apply)(params, clip, drop_keys=keys_of(300)).tokens)
    # Blocks 1 and 2 have two branches each that are there or not: sixteen outcomes, unless draws were shared.
    assert len(np.unique(np.round(tokens[:, 0], 4), axis=0)) == 16
