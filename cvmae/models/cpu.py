"""Forms of a linear layer and of GELU that XLA compiles to faster programs for CPUs; the numbers are the same but for rounding.

A block's MLP, 6,144 tokens of width 96, forward and backward: 0.53 of the time (52 of 98 ms of CPU time on two cores).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvmae.parallel.logical_axes import Rules, target_device


def is_for_cpu(rules: Rules | None) -> bool:
    """Returns True if the program is compiled for CPUs; `rules` of the module."""
    return target_device(rules).platform == "cpu"


def dot_general(lhs, rhs, dimension_numbers, *args, **kwargs):
    """`jax.lax.dot_general` of a linear layer, with the axes before the last one of `lhs` as one axis.

    The gradient of the weights is then a product of matrices too. XLA for CPUs transposes activations for it where they have more
    axes. On TPUs the reshape itself would move numbers, where tokens do not fill tiles.
    """
    contracted, batch = dimension_numbers
    if lhs.ndim < 3 or rhs.ndim != 2 or batch != ((), ()) or contracted != ((lhs.ndim - 1,), (0,)):
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, *args, **kwargs)
    product = jax.lax.dot_general(lhs.reshape(-1, lhs.shape[-1]), rhs, (((1,), (0,)), batch), *args, **kwargs)
    return product.reshape(*lhs.shape[:-1], rhs.shape[1])


@jax.custom_vjp
def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Exact GELU by erf, whose gradient keeps its argument alone and computes erf again, instead of storing four arrays."""
    return x * _cdf(x)


def _forward(x):
    return gelu(x), x


def _backward(x, gradient):
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (gradient * (_cdf(x) + x * density),)


gelu.defvjp(_forward, _backward)


def _cdf(x):
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
