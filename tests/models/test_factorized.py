"""The factorized encoder: which tokens attend to which, stochastic depth of whole clips, soft caps, interpolation by its kernel."""

import jax
import numpy as np
import pytest

from cvmae.models import attention, masking
from cvmae.models.factorized import FactorizedEncoder
from cvmae.models.patches import Grid
from cvmae.models.vit import TransformerConfig, ViTSize
from tests.interop.models import random_params

GRID = Grid(3, 16, 16, 1, 8)


def make(**trunk) -> tuple[FactorizedEncoder, dict]:
    """A tiny encoder whose random weights are large enough for attention to differ from a mean."""
    encoder = FactorizedEncoder(TransformerConfig(ViTSize(16, 2, 2), **trunk), GRID, temporal_blocks=1)
    return encoder, random_params(encoder)


def clips(batch: int = 2):
    return np.random.default_rng(1).normal(size=(batch, 3, 16, 16, 3)).astype(np.float32)


def test_spatial_blocks_see_a_frame_and_temporal_ones_a_position():
    """Exchanging two frames exchanges states of spatial blocks; the output of a position depends on every frame."""
    encoder, params = make()
    video = clips(1)

    @jax.jit
    def states(video):
        encoded, state = encoder.apply({"params": params}, video, mutable=["intermediates"])
        return state["intermediates"]["blocks"]["hidden"][-1], encoded.tokens

    spatial, tokens = states(video)
    exchanged, other = states(video[:, [1, 0, 2]])
    np.testing.assert_allclose(exchanged, np.asarray(spatial)[[1, 0, 2]], rtol=1e-5, atol=1e-5)
    last = slice(2 * GRID.spatial_patches, None)
    assert np.abs(np.asarray(other - tokens)[0, last]).max() > 1e-3


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": "full"}, {"remat": "dots", "scan": True}])
def test_loops_and_recomputation_change_no_numbers(options):
    encoder, params = make(softcap=1.0)
    other = encoder.clone(trunk=TransformerConfig(ViTSize(16, 2, 2), softcap=1.0, **options))
    run = [jax.jit(module.apply)({"params": params}, clips()).tokens for module in (encoder, other)]
    np.testing.assert_allclose(*run, rtol=1e-5, atol=1e-5)


def test_stochastic_depth_drops_a_branch_of_a_whole_clip():
    """Without branches at all, every token is its embedding; branches that are left are those of the clip's key alone."""
    encoder, params = make(drop_path=0.8)
    video, keys = clips(16), jax.random.split(jax.random.key(0), 16)

    @jax.jit
    def apply(video, keys=None):
        encoded, state = encoder.apply({"params": params}, video, drop_keys=keys, mutable=["intermediates"])
        return encoded.tokens, state["intermediates"]["blocks"]["hidden"]

    tokens, hidden = apply(video, keys)
    np.testing.assert_allclose(apply(video[::-1], keys[::-1])[0], tokens[::-1], rtol=1e-5, atol=1e-5)
    unchanged = np.all(np.asarray(hidden[0]) == np.asarray(hidden[1]), axis=(1, 2)).reshape(16, 3)
    assert (unchanged.all(1) | ~unchanged.any(1)).all() and 0 < unchanged.sum() < unchanged.size
    assert np.abs(tokens - apply(video)[0]).max() > 1e-3


def test_masks_are_refused():
    encoder, params = make()
    mask = masking.draw(jax.random.split(jax.random.key(0), 2), GRID, "tube", 0.5)
    with pytest.raises(ValueError, match="needs every token of a clip"):
        jax.eval_shape(encoder.apply, {"params": params}, clips(), mask)


def test_a_soft_cap_bounds_logits():
    """Weights of logits c · tanh(l / c), in the module's product and in those that it shows; only einsum has them."""
    query, key, value = np.random.default_rng(0).normal(scale=3, size=(3, 2, 5, 3, 4)).astype(np.float32)
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    capped = np.exp(1.5 * np.tanh(logits / 1.5))
    capped /= capped.sum(-1, keepdims=True)
    weights = jax.jit(attention.weights, static_argnums=2)
    np.testing.assert_allclose(weights(query, key, 1.5), capped, rtol=1e-5)
    expected = np.einsum("bhqk,bkhd->bqhd", capped, value)
    attend = jax.jit(attention.attend, static_argnames=("kernel", "softcap"))
    np.testing.assert_allclose(attend(query, key, value, kernel="auto", softcap=1.5), expected, rtol=1e-4, atol=1e-5)
    attend_projected = jax.jit(attention.attend_projected, static_argnames=("heads", "kernel", "softcap"))
    flat = [np.reshape(a, (2, 5, 12)) for a in (query, key, value)]
    projected = attend_projected(*flat, heads=3, kernel="auto", softcap=1.5)
    np.testing.assert_allclose(projected.reshape(2, 5, 3, 4), expected, rtol=1e-4, atol=1e-5)
    for kernel in set(attention.ATTENTIONS) - {"auto", "einsum"}:
        with pytest.raises(ValueError, match="has no soft cap of logits"):
            attend(query, key, value, kernel=kernel, softcap=1.5)
        with pytest.raises(ValueError, match="has no soft cap of logits"):
            TransformerConfig(ViTSize(16, 1, 2), attention=kernel, softcap=1.5)
