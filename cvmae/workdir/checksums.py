"""Checksums of a checkpoint's values, which neither Orbax nor the storage keeps: a changed bit would be trained on in silence.

The checksum of an array is the sum of its 32-bit words modulo 2^32. It is computed where the array lies, and the same for every
sharding; any changed bit changes it. Checkpoints of earlier versions have none, and do not say that they have.
"""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.parallel import processes
from cvmae.storage.path import AnyPath
from cvmae.workdir.saved_steps import try_reading

ITEM = "checksums"  # the folder in a checkpoint, and the entry of the position of one that has it
_FILE = f"{ITEM}/metadata"
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def _sum(array: jax.Array) -> jax.Array:
    """Returns the checksum of an array, a uint32 scalar."""
    words = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    return words.astype(jnp.uint32).sum(dtype=jnp.uint32)


def _sum_on_host(array) -> int:
    """Returns the checksum of an array, which is copied to the host if it is not there."""
    words = np.ascontiguousarray(array).view(np.dtype(_WORDS[array.dtype.itemsize]))
    return int(words.sum(dtype=np.uint32))


def of_arrays(tree) -> dict[str, int]:
    """Returns the checksum of every float and integer array of a tree by its path."""
    leaves = {_path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    words = {name: leaf for name, leaf in leaves.items() if hasattr(leaf, "dtype") and _has_words(leaf.dtype)}
    # On accelerators a program for each shape: one for the whole tree takes ten times as long to compile.
    sums = {name: _sum_on_host(leaf) if _lies_on_host(leaf) else _sum(leaf) for name, leaf in words.items()}
    return {name: int(value) for name, value in processes.to_host(sums).items()}


def _path_of(keys) -> str:
    return "/" + jax.tree_util.keystr(keys, simple=True, separator="/")


def _lies_on_host(array) -> bool:
    return not isinstance(array, jax.Array) or (array.is_fully_addressable and jax.default_backend() == "cpu")


def _has_words(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.number) and not jnp.issubdtype(dtype, jnp.complexfloating) and dtype.itemsize in _WORDS


def of_position(position: dict) -> str:
    """Returns the checksum of a position."""
    text = json.dumps(json.loads(json.dumps(position)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe(state, position: dict) -> dict:
    """Returns the checksums of a checkpoint, for JSON."""
    return {"arrays": of_arrays(state), "position": of_position(position)}


def read(checkpoint: AnyPath, position: dict) -> tuple[dict[str, int], str]:
    """Reads the checksums of the arrays of a checkpoint, {} for one of an earlier version, and checks its position.

    Returns:
      (the checksums by path, why the checkpoint is damaged: empty for a whole one).
    """
    file = checkpoint / _FILE
    if not file.parent.is_dir():
        return {}, f"{ITEM} is missing" if position.get(ITEM) else ""
    content, why = try_reading(lambda: json.loads(file.read_text(encoding="utf-8")), checkpoint, _FILE)
    if why:
        return {}, why
    sums = content.get("arrays") if isinstance(content, dict) else None
    if not isinstance(sums, dict) or not sums or not all(isinstance(value, int) for value in sums.values()):
        return {}, f"{_FILE} lists no checksums of arrays"
    return (sums, "") if content.get("position") == of_position(position) else ({}, "the checksum of its position is another")


def find_difference(state, sums: dict[str, int]) -> str:
    """Names an array whose checksum is not the one of `sums`; empty if all agree. Names in only one of both do not count."""
    if not sums:
        return ""
    here = of_arrays(state)
    changed = [name for name, value in here.items() if sums.get(name, value) != value]
    return f"the checksum of {changed[0]} is another" if changed else ""
