"""Checksums of a checkpoint's values, which neither Orbax nor the storage keeps: a changed bit would be trained on in silence.

The checksum of an array is the sum of its 32-bit words modulo 2^32. It is computed where the array lies, and the same for every
sharding; any changed bit changes it. Checkpoints of earlier versions have none.
"""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.parallel import processes
from cvmae.training.optimizer import path_of
from cvmae.workdir.saved_steps import DAMAGE_ERRORS, shorten

ITEM = "checksums"
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def _sums(arrays: list[jax.Array]) -> jax.Array:
    """Returns the checksums of arrays, uint32 [n]."""
    words = [jax.lax.bitcast_convert_type(a, _WORDS[a.dtype.itemsize]).astype(jnp.uint32) for a in arrays]
    return jnp.stack([w.sum(dtype=jnp.uint32) for w in words])


def of_arrays(tree) -> dict[str, int]:
    """Returns the checksum of every float and integer array of a tree by its path."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    words = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, jax.Array) and _has_words(leaf.dtype)}
    sums = np.asarray(processes.to_host(_sums(list(words.values())))) if words else ()
    return dict(zip(words, map(int, sums)))


def _has_words(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating) and dtype.itemsize in _WORDS


def of_position(position: dict) -> str:
    """Returns the checksum of a position."""
    text = json.dumps(json.loads(json.dumps(position)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe(state, position: dict) -> dict:
    """Returns the checksums of a checkpoint, for JSON."""
    return {"arrays": of_arrays(state), "position": of_position(position)}


def read(checkpoint: pathlib.Path, position: dict) -> tuple[dict[str, int], str]:
    """Reads the checksums of the arrays of a checkpoint, {} for one of an earlier version, and checks its position.

    Returns:
      (the checksums by path, why the checkpoint is damaged: empty for a whole one).
    """
    file = checkpoint / ITEM / "metadata"
    if not file.parent.is_dir():
        return {}, ""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        sums = {str(name): int(value) for name, value in there["arrays"].items()}
        if there["position"] != of_position(position):
            return {}, "the checksum of its position is another"
    except DAMAGE_ERRORS as error:
        return {}, f"{ITEM}/metadata: {shorten(error, checkpoint)}"
    return sums, ""


def find_difference(state, sums: dict[str, int]) -> str:
    """Names an array whose checksum is not the one of `sums`; empty if there is none. Names in only one of both do not count."""
    if not sums:
        return ""
    here = of_arrays(state)
    changed = [name for name, value in here.items() if sums.get(name, value) != value]
    return f"the checksum of {changed[0]} is another" if changed else ""
