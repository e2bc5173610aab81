"""Arrays under someone else's keys to our tree and back, by a key map; every key is accounted for."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cvmae.interop.keymap import TRANSFORMS, KeyMap
from cvmae.models.patches import Grid

# The tables come from sines in float64 or float32; real files differ from ours by about 1e-7, another layout by 1.
TABLE_TOLERANCE = 1e-4


@dataclasses.dataclass
class Converted:
    """What a file's arrays are in our terms.

    Attributes:
      arrays: by our path, parts joined by `/`.
      sources: {our path: the key it came from}.
      ignored: {key: why it is left out}.
      casts: names of the dtypes that were cast to float32.
      problems: keys that no table names, that say the same twice, or that are mis-shaped; one a line.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    casts: set[str] = dataclasses.field(default_factory=set)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def tree(self) -> dict:
        return traverse_util.unflatten_dict(self.arrays, sep="/")


def to_ours(arrays: Mapping[str, np.ndarray], key_map: KeyMap) -> Converted:
    """Arrays by their keys, or any others under the same keys (gradients, for one), in our layout.

    Floating arrays of another precision are cast to float32.
    """
    found = Converted()
    tables = {table.theirs: table for table in key_map.tables}
    for key, array in arrays.items():
        rule = key_map.find(key)
        reason = key_map.reason_ignored(key)
        if key in tables:
            _check_table(tables[key], array, found)
        elif reason:
            found.ignored[key] = reason
        elif rule is None:
            found.problems.append(f"left over: {key} {list(array.shape)} is not a key of {key_map.kind}, {key_map.layout}")
        else:
            _take(key, array, *rule, found)
    return found


def _check_table(table, array, found: Converted) -> None:
    """Notes a fixed position table as ignored, or as a problem where it is none that we compute."""
    try:
        difference = table.difference(array)
    except ValueError as error:
        found.problems.append(f"mis-shaped: {table.theirs}: {error}")
        return
    if difference <= TABLE_TOLERANCE:
        found.ignored[table.theirs] = f"the fixed {table.kind} table, which is computed (differs by {difference:.1e})"
    else:
        found.problems.append(f"other positions: {table.theirs} differs from the {table.kind} table by up to {difference:.3g}")


def _take(key, array, rule, paths, found: Converted) -> None:
    """Puts one array where its rule says."""
    try:
        ours = TRANSFORMS[rule.transform].read(np.asarray(array))
    except ValueError as error:
        found.problems.append(f"mis-shaped: {key} is {list(array.shape)}: {error}")
        return
    for path, part in zip(paths, ours, strict=True):
        if path in found.arrays:
            found.problems.append(f"twice: {key} and {found.sources[path]} both belong at {path}")
            continue
        if part.dtype != np.float32 and jnp.issubdtype(part.dtype, np.floating):
            found.casts.add(part.dtype.name)
            part = part.astype(np.float32)
        found.arrays[path], found.sources[path] = np.ascontiguousarray(part), key


def to_theirs(params: Mapping, key_map: KeyMap, grid: Grid) -> dict[str, np.ndarray]:
    """Our parameters under someone else's keys, each array in their layout; fixed position tables are written too.

    Args:
      params: nested dicts of `encoder` and what else the layout has.
      key_map: of the file to write.
      grid: of the encoder.

    Raises:
      ValueError: the layout has no place for one of our arrays; all are listed.
    """
    ours = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(dict(params), sep="/").items()}
    written, left = {}, dict.fromkeys(ours)
    blocks = range(1 + max((int(part[5:]) for path in ours for part in path.split("/") if _is_block(part)), default=-1))
    for rule in key_map.rules:
        for i in blocks if "{i}" in rule.theirs else (0,):
            paths = tuple(path.format(i=i) for path in rule.paths)
            if not all(path in left for path in paths):
                continue
            array = TRANSFORMS[rule.transform].write(tuple(ours[path] for path in paths), grid)
            written[rule.theirs.format(i=i)] = np.ascontiguousarray(array)
            for path in paths:
                del left[path]
    if left:
        raise ValueError(f"{key_map.kind}, {key_map.layout} has no place for {', '.join(left)}")
    for table in key_map.tables:
        if table.branch in params:
            width = params[table.branch]["embed"]["kernel"].shape[-1]
            written[table.theirs] = table.write(grid.rows, width)
    return written


def _is_block(part: str) -> bool:
    return part.startswith("block") and part[5:].isdigit()
