"""Named streams of random keys, folded by name, then by step, then by sample.

Adding a stream does not change the numbers of the others, and a resumed run repeats them. Since every sample has its own key, a
step draws the same views and masks on any number of devices.
"""

import zlib

import jax
import jax.numpy as jnp


def stream(key, name: str, step):
    """Returns the key of the stream `name` at a step.

    Args:
      key: the key of the run.
      name: the stream.
      step: integer, may be traced.
    """
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def per_sample(key, count: int):
    """Returns a key for each sample of a global batch of `count`, keys [count]."""
    return jax.vmap(lambda sample: jax.random.fold_in(key, sample))(jnp.arange(count))
