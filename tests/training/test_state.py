"""Accumulation and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvmae.objective import Objective
from cvmae.training.state import create, gradients_in_parts, update
from tests.small import config, samples


def gradients(c, parts):
    objective, batch = Objective(c), samples(c, 4)
    params = objective.init(jax.random.key(0), batch)
    run = jax.jit(lambda p, b: gradients_in_parts(lambda p, s: objective(p, s, 0), p, b, parts))
    return run(params, batch)


def test_reconstruction_in_parts_is_reconstruction_of_the_whole_batch():
    c = config(only=("mse_video",))
    (whole, metrics), (parts, in_parts) = gradients(c, 1), gradients(c, 2)
    np.testing.assert_allclose(metrics["loss"], in_parts["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole, parts)


def test_contrast_in_parts_has_fewer_negatives():
    c = config(only=("intra_video",))
    assert gradients(c, 2)[1]["loss/intra_video"] < gradients(c, 1)[1]["loss/intra_video"] - 0.1


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_moving_average_is_what_evaluation_sees(decay):
    tx = optax.sgd(1.0)
    state = create({"w": jnp.ones(2)}, tx, decay)
    state, norms = update(state, {"w": jnp.full(2, 0.5)}, tx, decay)
    assert int(state.step) == 1
    np.testing.assert_allclose(state.params["w"], 0.5)
    np.testing.assert_allclose(state.evaluated["w"], 0.95 if decay else 0.5, rtol=1e-6)
    np.testing.assert_allclose(norms["optimizer/grad_norm"], 0.5 * np.sqrt(2), rtol=1e-6)
