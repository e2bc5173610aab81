"""Named streams of randomness, folded by name, then by step, then by sample.

Adding a stream changes no other stream's numbers; a resumed run repeats them; and since every sample has a key of its own,
the same step gives the same views and masks on one device and on many.
"""

import zlib

import jax
import jax.numpy as jnp


def stream(key, name: str, step):
    """The key of the stream `name` at a step."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def per_sample(key, count: int):
    """One key for each of `count` samples of the global batch, [count]."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(count))
