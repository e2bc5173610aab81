"""The classifier against numpy, and dropout that depends on the key of its sample alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models.classifier import Classifier
from cvmae.models.layers import dropout
from cvmae.models.patches import Grid
from cvmae.models.probes import AttentivePooler
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize

GRID = Grid(4, 16, 16, 2, 8)
CLIPS = np.random.default_rng(0).normal(size=(3, 4, 16, 16, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(7), 3)


def classifier(pool="mean", cls_token=False, drop_path=0.0, **changes) -> Classifier:
    trunk = TransformerConfig(ViTSize(16, 2, 2), drop_path=drop_path)  # of two blocks the second is dropped
    encoder = Encoder(trunk, GRID, "separable", cls_token, final_norm=pool == "first")
    return Classifier(encoder, 5, pool, **{"init_scale": 1.0} | changes)


def make(module):
    """Random parameters of a classifier."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), CLIPS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, clips, keys):
    return module.apply({"params": params}, clips, keys)


def run(module, params, clips=CLIPS, keys=None):
    return np.asarray(apply(module, params, clips, keys))


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("pool", ["mean", "first", "attentive"])
def test_against_numpy(pool, cls_token):
    module = classifier(pool, cls_token, eps=0.01, pooler=ViTSize(16, 1, 2))
    params = make(module)
    assert set(params) == {"encoder", "head"} | {"mean": {"norm"}, "attentive": {"pooler"}}.get(pool, set())
    encoded = jax.jit(module.encoder.apply)({"params": params["encoder"]}, CLIPS)
    if pool == "mean":
        x = np.asarray(encoded.tokens).mean(1)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01)
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
    elif pool == "attentive":
        pooler = AttentivePooler(ViTSize(16, 1, 2), eps=0.01, project=False)
        x = np.asarray(jax.jit(pooler.apply)({"params": params["pooler"]}, encoded.tokens))
        assert "out" not in params["pooler"]
    else:
        x = encoded.cls if cls_token else encoded.tokens[:, 0]
    logits = run(module, params)
    assert logits.dtype == np.float32 and logits.shape == (3, 5)
    np.testing.assert_allclose(logits, x @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-4, atol=1e-5)


def test_the_head_starts_small():
    module = Classifier(Encoder(TransformerConfig(ViTSize(96, 1, 3)), GRID, "separable"), 200, init_scale=0.01)
    head = jax.jit(module.init)(jax.random.key(0), CLIPS)["params"]["head"]
    assert not head["bias"].any()
    kernel = np.asarray(head["kernel"])
    assert kernel.std() == pytest.approx(
        0.88 * 2e-4, rel=0.02
    )  # a normal truncated at two standard deviations has 0.88 of its standard deviation
    assert np.abs(kernel).max() <= 4e-4


def test_logits_are_float32_whatever_the_encoder_computes_in():
    module = Classifier(Encoder(TransformerConfig(ViTSize(16, 1, 2), dtype=jnp.bfloat16), GRID, "separable", final_norm=False), 5)
    params = make(module)
    assert jax.eval_shape(module.apply, {"params": params}, CLIPS).dtype == jnp.float32


def test_dropout_zeroes_a_fraction_and_scales_the_rest():
    x, keys = jnp.ones((40, 500)), jax.random.split(jax.random.key(0), 40)
    out = np.asarray(jax.jit(dropout, static_argnums=1)(x, 0.3, keys))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert len(np.unique(out, axis=0)) == 40
    assert dropout(x, 0.3, None) is x and dropout(x, 0.0, keys) is x


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_randomness_is_of_the_sample(rates):
    module = classifier(dropout=rates[0], drop_path=rates[1])
    params = make(module)
    plain, first, again = (run(module, params, keys=keys) for keys in (None, KEYS, KEYS))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain)
    # The same sample and key in another batch at another place.
    order = np.array([0, 2, 1])
    np.testing.assert_allclose(run(module, params, CLIPS[order], KEYS[order]), first[order], rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(module, params, keys=jax.random.split(jax.random.key(8), 3)), first)


def test_keys_change_nothing_where_nothing_is_dropped():
    module = classifier()
    params = make(module)
    np.testing.assert_allclose(run(module, params, keys=KEYS), run(module, params), rtol=1e-6, atol=1e-6)


def test_an_unknown_pool():
    with pytest.raises(ValueError, match="pool is 'max'; expected one of mean, first"):
        jax.eval_shape(classifier("max").init, jax.random.key(0), CLIPS)
