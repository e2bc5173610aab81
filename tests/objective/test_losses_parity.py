"""NT-Xent against pytorch-metric-learning's NTXentLoss: value and gradient."""

import functools

import jax
import numpy as np
import pytest

from cvmae.objective import losses
from tests.requirements import missing

try:
    import torch
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
except ImportError as error:
    missing("parity", str(error))


def batch(rows, size=8, width=16):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, size, width)).astype(np.float32)
    if rows == "duplicates":
        a[3], b[5] = a[1], a[1]
    if rows == "near zero":
        a[2] *= 1e-7
        b[4] *= 1e-5
    return a, b


@functools.partial(jax.jit, static_argnums=2)
def value_and_gradients(a, b, temperature):
    return jax.value_and_grad(lambda a, b: losses.nt_xent(a, b, temperature=temperature).mean()[0], (0, 1))(a, b)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("rows", ["random", "duplicates", "near zero"])
def test_value_and_gradient(rows, temperature):
    a, b = batch(rows)
    tensors = [torch.tensor(x, requires_grad=True) for x in (a, b)]
    expected = SelfSupervisedLoss(NTXentLoss(temperature=temperature))(*tensors)
    expected.backward()
    value, gradients = value_and_gradients(a, b, temperature)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for gradient, tensor in zip(gradients, tensors):
        difference = np.linalg.norm(np.asarray(gradient) - tensor.grad.numpy())
        assert difference <= 1e-4 * np.linalg.norm(tensor.grad.numpy())
