"""Linear layers and GELU in their form for CPUs: against float64, against jax.lax, and a block and a probe against their other form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import cpu
from cvmae.models.probes import AttentiveProbe
from cvmae.models.vit import Block, TransformerConfig, ViTSize


def test_gelu_and_its_gradient_are_those_of_float64():
    x = np.linspace(-8, 8, 4001)
    cdf = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    slope = cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    @jax.jit
    def value_and_slope(x):
        value, pullback = jax.vjp(cpu.gelu, x)
        return value, pullback(jnp.ones_like(x))[0]

    value, gradient = value_and_slope(x.astype(np.float32))
    np.testing.assert_allclose(value, x * cdf, atol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8), (2, 3, 5, 8)])
def test_a_product_and_its_gradients_are_those_of_lax(shape):
    draw = np.random.default_rng(0)
    x, kernel = (draw.normal(size=size).astype(np.float32) for size in (shape, (8, 4)))
    numbers = (((len(shape) - 1,), (0,)), ((), ()))

    def evaluate(product):
        loss = jax.value_and_grad(lambda x, kernel: jnp.square(product(x, kernel, numbers)).sum(), (0, 1))
        return jax.jit(loss)(x, kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), evaluate(cpu.dot_general), evaluate(jax.lax.dot_general)
    )


@pytest.mark.parametrize("module", [Block(TransformerConfig(ViTSize(32, 1, 4))), AttentiveProbe(5, ViTSize(32, 1, 4))])
def test_a_module_is_the_same_in_both_forms(monkeypatch, module):
    x = np.random.default_rng(0).normal(size=(3, 7, 32)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)

    def evaluate():
        loss = jax.value_and_grad(lambda params, x: jnp.sin(module.apply(params, x)).sum(), (0, 1))
        return jax.jit(loss)(params, x)

    here = evaluate()
    monkeypatch.setattr(cpu, "is_for_cpu", lambda rules: False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), here, evaluate())
