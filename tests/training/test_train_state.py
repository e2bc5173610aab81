"""Gradient accumulation: the same update for losses that are means, other negatives for those that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.objective.losses import nt_xent
from cvmae.objective.objective import Objective
from cvmae.training.train_state import accumulate_gradients
from tests.tiny_configs import config, samples


def gradients(c, parts: int):
    objective, batch = Objective(c), samples(c, batch=8)
    params = jax.jit(objective.init)(jax.random.key(0), samples(c, batch=1))

    def loss(params, part):
        return objective(params, part, 0)

    return jax.jit(lambda p, b: accumulate_gradients(loss, p, b, parts))(params, batch)


def test_reconstruction_in_parts_is_reconstruction_of_the_batch():
    c = config(("mse_video",))
    (whole, metrics), (parts, metrics_in_parts) = gradients(c, 1), gradients(c, 2)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale)
    assert float(metrics["loss/mse_video"]) == pytest.approx(float(metrics_in_parts["loss/mse_video"]), rel=1e-6)


def contrast(parts: int):
    draw = np.random.default_rng(0)
    pairs = {name: jnp.asarray(draw.normal(size=(8, 4)), jnp.float32) for name in "ab"}

    def loss(params, part):
        value, accuracy = nt_xent(part["a"] @ params, part["b"] @ params).mean()
        return value, {"loss": value, "accuracy": accuracy}

    return accumulate_gradients(loss, jnp.eye(4), pairs, parts)


def test_contrast_in_parts_has_fewer_negatives_and_so_another_gradient():
    (whole, metrics), (parts, metrics_in_parts) = contrast(1), contrast(2)
    assert float(metrics_in_parts["loss"]) < float(metrics["loss"]) - 0.3
    assert float(jnp.abs(whole - parts).max()) > 0.1


def test_a_part_takes_every_other_sample():
    seen = []

    def loss(params, part):
        jax.debug.callback(lambda a: seen.append(a.tolist()), part["x"])
        return params * part["x"].mean(), {}

    gradient, _ = accumulate_gradients(loss, jnp.float32(1), {"x": jnp.arange(6.0)}, 2)
    jax.effects_barrier()
    assert float(gradient) == 2.5 and sorted(seen) == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
