"""Losses compared with optax here, and with pytorch-metric-learning in test_losses_parity.py."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from cvmae.models.crossvideo import CrossVideoOutput
from cvmae.objective import TERMS, losses


# Compiled as a whole: op by op, every operation of every shape would be a program of its own.
@functools.partial(jax.jit, static_argnames="temperature")
def nt_xent(a, b, temperature=0.1, valid=None, negatives=None):
    """Mean loss and accuracy, and the loss of every anchor."""
    pairs = losses.nt_xent(a, b, temperature=temperature, valid=valid, negatives=negatives)
    return *pairs.mean(), pairs.loss


@functools.partial(jax.jit, static_argnames="temperature")
def gradients(a, b, temperature=0.1, valid=None, negatives=None):
    """Mean loss, and its gradients by `a` and `b`."""
    return jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature, valid, negatives)[0], (0, 1))(a, b)


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_optax_in_value_and_gradient(temperature):
    a, b = rows(0, 6, 5), rows(1, 6, 5)
    labels = np.tile(np.arange(6), 2)

    def reference(a, b):
        return optax.losses.ntxent(jnp.concatenate([a, b]), labels, temperature)

    expected = jax.jit(jax.value_and_grad(reference, (0, 1)))(a, b)
    for actual, wanted in zip(gradients(a, b, temperature), expected, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), actual, wanted)


def test_negatives_are_candidates_but_no_anchors():
    a, b, r = rows(0, 4, 5), rows(1, 4, 5), rows(2, 4, 5)
    loss = nt_xent(a, b, 0.5, negatives=r)[2]
    units = np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b, r)])
    logits = units @ units.T / 0.5
    expected = []
    for anchor in range(8):
        others = [j for j in range(12) if j != anchor]
        expected.append(np.log(np.exp(logits[anchor, others]).sum()) - logits[anchor, (anchor + 4) % 8])
    np.testing.assert_allclose(loss.T.reshape(-1), expected, rtol=1e-5)
    assert loss.shape == (4, 2)


def test_a_negative_equal_to_the_positive_is_no_hit():
    a, same = np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32)
    assert nt_xent(a, a)[1] == 1
    assert nt_xent(a, a, negatives=a)[1] == 0
    assert nt_xent(same, same)[1] == 0  # collapse is not success


def test_an_invalid_pair_is_neither_anchor_nor_negative():
    a, b = rows(0, 5, 4), rows(1, 5, 4)
    valid = np.array([True, True, False, True, True])
    expected = nt_xent(a[valid], b[valid])[:2]
    np.testing.assert_allclose(nt_xent(a, b, valid=valid)[:2], expected, rtol=1e-6)


def test_no_valid_pair_gives_zero_with_finite_gradients():
    a = rows(0, 4, 5)
    value, gradient = gradients(a, a * 2, valid=np.zeros(4, bool))
    assert value == 0 and all(np.isfinite(part).all() for part in gradient)


def test_a_zero_vector_gives_no_nan():
    a = rows(0, 6, 5)
    a[1] = 0
    value, gradient = gradients(a, rows(1, 6, 5))
    assert np.isfinite(value) and all(np.isfinite(part).all() for part in gradient)


def test_one_pair_alone_has_no_negatives():
    assert nt_xent(rows(0, 1, 3), rows(1, 1, 3))[0] == 0


def output(views=2, frames=2, seed=0):
    return CrossVideoOutput(
        z=rows(seed, 4, views, 8),
        f=rows(seed + 1, 4, views, frames, 8),
        f_valid=np.array([[True, True], [False, True], [True, True], [True, True]])[:, :frames],
        h=rows(seed + 2, 4, frames, 8),
    )


CONTRASTIVE = {term.name: term for term in TERMS if term.contrastive}
CONFIG = ml_collections.ConfigDict({"contrast": {"temperature": 0.1}})


@jax.jit
def contrastive_losses(output):
    """{term: loss} of the contrastive terms, which read no inputs."""
    return {name: term(output, None, CONFIG)[0] for name, term in CONTRASTIVE.items()}


def test_the_four_terms_are_those_of_the_method():
    o = output()
    terms = contrastive_losses(o)
    assert set(terms) == {"intra_video", "intra_frame", "cross_video", "cross_frame"}
    z, f, h = o.z, o.f, o.h

    def pair(a, b, valid=None):
        return nt_xent(a, b, valid=np.ones(4, bool) if valid is None else valid)[0]

    expected = {
        "intra_video": pair(z[:, 0], z[:, 1]),
        "cross_video": pair((z[:, 0] + z[:, 1]) / 2, h.mean(1)),
        "intra_frame": np.mean([pair(f[:, 0, k], f[:, 1, k], o.f_valid[:, k]) for k in range(2)]),
        "cross_frame": np.mean([pair((f[:, 0, k] + f[:, 1, k]) / 2, h[:, k], o.f_valid[:, k]) for k in range(2)]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_the_mean_of_views_is_taken_before_normalizing():
    o = output()
    scaled = o.replace(z=o.z * np.float32([[1], [100]]))
    before, after = (contrastive_losses(x)["cross_video"] for x in (o, scaled))
    assert abs(before - after) > 1e-3


def test_a_third_view_adds_negatives_to_the_intra_terms_only():
    two, three = output(2), output(3)
    three = three.replace(z=np.concatenate([two.z, three.z[:, 2:]], 1), f=np.concatenate([two.f, three.f[:, 2:]], 1), h=two.h)
    before, after = map(contrastive_losses, (two, three))
    for name in ("intra_video", "intra_frame"):
        assert after[name] > before[name]
    for name in ("cross_video", "cross_frame"):
        assert after[name] == before[name]


def test_masked_mse_is_the_mean_over_a_patch():
    predictions, targets = rows(0, 2, 3, 4), rows(1, 2, 3, 4)
    expected = ((predictions - targets) ** 2).mean(-1)
    np.testing.assert_allclose(jax.jit(losses.masked_mse)(predictions, targets), expected, rtol=1e-6)
    assert jax.eval_shape(losses.masked_mse, predictions.astype(jnp.bfloat16), targets).dtype == jnp.float32


def test_feature_std_is_zero_when_features_collapse():
    feature_std = jax.jit(losses.feature_std)
    assert feature_std(np.ones((4000, 4), np.float32)) == 0
    assert feature_std(rows(0, 4000, 4)) == pytest.approx(1, abs=0.05)


def test_weighted_sum():
    terms, weights = {"a": 2.0, "b": 3.0}, {"a": 10.0, "b": 0.5, "c": 7.0}
    assert losses.weighted_sum(*({name: jnp.float32(x) for name, x in d.items()} for d in (terms, weights))) == 21.5


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_fewer_than_two_valid_pairs_do_not_count(count, with_negatives):
    """Neither as success, loss 0 and accuracy 1, nor with a gradient."""
    negatives = rows(3, 4, 5) if with_negatives else None
    a, valid = rows(0, 4, 5), np.arange(4) < count
    value, accuracy, _ = nt_xent(a, a + 0.1, valid=valid, negatives=negatives)
    _, gradient = gradients(a, a + 0.1, valid=valid, negatives=negatives)
    assert value == accuracy == 0 and not np.any(gradient)


def test_frames_with_fewer_than_two_valid_pairs_are_left_out_of_the_mean():
    a, b = rows(0, 5, 4, 6), rows(1, 5, 4, 6)
    valid = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool).T
    per_frame = jax.jit(functools.partial(losses.nt_xent_per_frame, temperature=0.1))
    counted = [nt_xent(a[:, k], b[:, k], valid=valid[:, k])[:2] for k in (0, 1)]
    np.testing.assert_allclose(per_frame(a, b, valid=valid), np.mean(counted, axis=0), rtol=1e-5)
    assert per_frame(a[:, 2:], b[:, 2:], valid=valid[:, 2:]) == (0, 0)


def test_two_valid_pairs_are_those_of_optax():
    a, b, valid = rows(0, 4, 5), rows(1, 4, 5), np.array([False, True, False, True])
    reference = jax.jit(optax.losses.ntxent, static_argnames="temperature")
    expected = reference(np.concatenate([a[valid], b[valid]]), np.tile(np.arange(2), 2), temperature=0.1)
    np.testing.assert_allclose(nt_xent(a, b, valid=valid)[0], expected, rtol=1e-5)
