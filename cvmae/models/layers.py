"""Parts of transformer blocks: linear layers, activation, layer norm, and stochastic depth with one key a sample."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models import cpu
from cvmae.parallel.logical_axes import Rules


def linear(features: int, dtype, name: str, rules: Rules | None, use_bias: bool = True):
    """A linear layer with the initialization of MAE and VideoMAE: Xavier uniform, zero bias; in the form that suits its devices."""
    dot_general = cpu.dot_general if cpu.is_for_cpu(rules) else None
    return nn.Dense(features, use_bias, dtype, kernel_init=nn.initializers.xavier_uniform(), name=name, dot_general=dot_general)


def gelu(x: Float[Array, "*axes"], approximate: bool, rules: Rules | None) -> Float[Array, "*axes"]:
    """GELU, exact or by tanh, in the form that suits its devices."""
    if not approximate and x.dtype == jnp.float32 and cpu.is_for_cpu(rules):
        return cpu.gelu(x)
    return nn.gelu(x, approximate=approximate)


def layer_norm(eps: float, dtype, name: str):
    """Layer norm whose variance is taken in two passes, as PyTorch does."""
    return nn.LayerNorm(eps, dtype, use_fast_variance=False, name=name)


class LayerScale(nn.Module):
    """Learned factors of each channel, 1e-5 at the start (CaiT, arXiv 2103.17239; DINOv2)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return x * self.param("scale", nn.initializers.constant(1e-5), (x.shape[-1],)).astype(x.dtype)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """The fraction of samples for which each block's residual branches are dropped: from 0 to `rate` in linear steps."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


def drop_samples(
    keys: Key[Array, " B"] | None, x: Float[Array, " B *axes"], rate: float | Float[Array, ""]
) -> Float[Array, " B *axes"]:
    """Zeroes samples of x with probability `rate` and scales up the rest; one key a sample, None leaves x as it is."""
    if keys is None or (isinstance(rate, float) and not rate):
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    scale = (keep / (1 - rate)).astype(x.dtype)
    return x * scale.reshape(-1, *[1] * (x.ndim - 1))


def dropout(x: Float[Array, " B *D"], rate: float, keys: Key[Array, " B"] | None) -> Float[Array, " B *D"]:
    """Zeroes a fraction `rate` of x and scales the rest by 1 / (1 - rate); row b depends on `keys[b]` alone.

    With one key a sample the result is the same on any number of devices, which Flax's own dropout does not promise. No keys: no
    dropout.
    """
    if keys is None or not rate:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0.0)


def layer_keys(keys: Key[Array, " B"] | None, i) -> Key[Array, " B"] | None:
    """Derives the keys of block i from those of a stack, one a sample; None of None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)


def prepend(tokens: Float[AnyArray, "*n D"], count: int, x: Float[Array, "B N D"]) -> Float[Array, "B {count}+N D"]:
    """Puts `count` learned tokens before those of every sample."""
    return jnp.concatenate([jnp.broadcast_to(tokens.astype(x.dtype), (x.shape[0], count, x.shape[2])), x], axis=1)
