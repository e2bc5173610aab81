"""Converts arrays between a file's keys and this package's parameters by a key map; every key is accounted for."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cvmae.interop.keymap import KeyMap, Rule, Table
from cvmae.interop.transforms import TRANSFORMS
from cvmae.models.patches import Grid

# Tables come from sines in float64 or float32; real files differ from the computed ones by about 1e-7, another layout by 1.
TABLE_TOLERANCE = 1e-4


@dataclasses.dataclass
class Converted:
    """The arrays of a file as parameters of this package.

    Attributes:
      arrays: by path, joined by `/`.
      sources: {path: the key it came from}.
      ignored: {key: why it is left out}.
      fixed: {`Table.source`: the key of the fixed position table that agrees with the computed one}.
      casts: names of the dtypes that were cast to float32.
      problems: keys that no table names, that are given twice, or whose arrays are mis-shaped; one a line.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    fixed: dict[str, str] = dataclasses.field(default_factory=dict)
    casts: set[str] = dataclasses.field(default_factory=set)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def tree(self) -> dict:
        return traverse_util.unflatten_dict(self.arrays, sep="/")


def import_arrays(arrays: Mapping[str, np.ndarray], key_map: KeyMap, bare_keys: Mapping[str, str] | None = None) -> Converted:
    """Converts a file's arrays, or any others under the same keys (gradients, for one), to this package's layout.

    Floating-point arrays of another precision are cast to float32.

    Args:
      arrays: the arrays by the keys of the file.
      key_map: the layout of the file.
      bare_keys: {key of the file: the same without its wrappers}, see `wrappers.unwrap`; None for a file without any.
    """
    converted = Converted()
    tables = {table.source: table for table in key_map.tables}
    for key, array in arrays.items():
        bare = key if bare_keys is None else bare_keys[key]
        rule = key_map.find(bare)
        reason = key_map.reason_ignored(bare)
        if bare in tables:
            _check_table(key, tables[bare], array, converted)
        elif reason:
            converted.ignored[key] = reason
        elif rule is None:
            converted.problems.append(f"left over: {key} {list(array.shape)} is not a key of {key_map.kind}, {key_map.layout}")
        else:
            _add(key, array, *rule, converted)
    return converted


def _check_table(key: str, table: Table, array: np.ndarray, converted: Converted) -> None:
    """Records a fixed position table as ignored, or as a problem if it is not the computed one."""
    if not is_floating(array):
        converted.problems.append(_other_numbers(key, array))
        return
    try:
        difference = table.difference(array)
    except ValueError as error:
        converted.problems.append(f"mis-shaped: {key}: {error}")
        return
    if difference <= TABLE_TOLERANCE:
        converted.fixed[table.source] = key
        converted.ignored[key] = f"the fixed {table.kind} table, which is computed (differs by {difference:.1e})"
    else:
        what = f"differs from the {table.kind} table, which is computed here, by up to {difference:.3g}: give the weights as published"
        if not array.any():
            what = f"is zero, where the {table.kind} table belongs: give trained weights, or save these with the table"
        converted.problems.append(f"other positions: {key} {what}")


def _add(key: str, array: np.ndarray, rule: Rule, paths: tuple[str, ...], converted: Converted) -> None:
    """Adds the parameters that an array of a file becomes."""
    if not is_floating(array):
        converted.problems.append(_other_numbers(key, array))
        return
    try:
        values = TRANSFORMS[rule.transform].read(np.asarray(array))
    except ValueError as error:
        converted.problems.append(f"mis-shaped: {key} is {list(array.shape)}: {error}")
        return
    for path, value in zip(paths, values, strict=True):
        if path in converted.arrays:
            converted.problems.append(f"twice: {key} and {converted.sources[path]} both belong at {path}")
            continue
        if value.dtype != np.float32:
            converted.casts.add(value.dtype.name)
            value = to_float32(key, value, converted.problems)
        converted.arrays[path], converted.sources[path] = np.ascontiguousarray(value), key


def is_floating(array: np.ndarray) -> bool:
    """Returns True for floating-point numbers of any precision."""
    return bool(jnp.issubdtype(array.dtype, np.floating))  # numpy's own does not know bfloat16


def cast_note(dtypes: Iterable[str]) -> str:
    """Returns the note about arrays that were cast, by the names of their dtypes."""
    return f"weights of {', '.join(sorted(dtypes))} are cast to float32"


def _other_numbers(key: str, array: np.ndarray) -> str:
    return f"other numbers: {key} {list(array.shape)} is {array.dtype}; expected floating-point weights: convert them before"


def to_float32(key: str, value: np.ndarray, problems: list[str]) -> np.ndarray:
    """Casts an array; a finite value beyond float32's range is a line for `problems`."""
    with np.errstate(over="ignore", under="ignore"):
        cast = value.astype(np.float32)
    if not np.array_equal(np.isfinite(value), np.isfinite(cast)):
        problems.append(f"not finite: {key} has {value.dtype.name} values beyond the range of float32")
    return cast


def export_arrays(params: Mapping, key_map: KeyMap, grid: Grid) -> dict[str, np.ndarray]:
    """Converts parameters to the keys and layout of a kind of file; fixed position tables are written too.

    Args:
      params: nested dicts of `encoder` and the other parts of the layout.
      key_map: the layout to write.
      grid: the encoder's.

    Raises:
      ValueError: the layout has no place for some parameters; all are listed.
    """
    arrays = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(dict(params), sep="/").items()}
    written, left = {}, dict.fromkeys(arrays)
    blocks = range(1 + max((int(part[5:]) for path in arrays for part in path.split("/") if _is_block(part)), default=-1))
    for rule in key_map.rules:
        for i in blocks if "{i}" in rule.source else (0,):
            paths = tuple(path.format(i=i) for path in rule.targets)
            if not all(path in left for path in paths):
                continue
            array = TRANSFORMS[rule.transform].write(tuple(arrays[path] for path in paths), grid)
            written[rule.source.format(i=i)] = np.ascontiguousarray(array)
            for path in paths:
                del left[path]
    if left:
        raise ValueError(f"{key_map.kind}, {key_map.layout} has no place for {', '.join(left)}")
    for table in key_map.tables:
        if table.branch in params:
            width = params[table.branch]["embed"]["kernel"].shape[-1]
            written[table.source] = table.write(grid.rows, width)
    return written


def _is_block(part: str) -> bool:
    return part.startswith("block") and part[5:].isdigit()
