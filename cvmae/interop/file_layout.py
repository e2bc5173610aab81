"""Problems of weights by the keys and shapes of their file, and what is left out of files that hold a part of a model."""

from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from cvmae.interop.convert import Converted
from cvmae.interop.keymap import KeyMap, Rule
from cvmae.interop.transforms import TRANSFORMS, Conv
from cvmae.models.patches import Grid


def leave_out_parts(converted: Converted) -> tuple[str, ...]:
    """Moves what belongs to absent parts to `converted.ignored`; returns a note for each part.

    These are the norm of pooled features without the head behind it, and the ends of a decoder without its blocks.
    """
    ends = {
        "norm/": ("head/", "the norm of pooled features is left out: the head that it belongs to is not in the file"),
        "pooler/": ("head/", "the pooler is left out: the head that it belongs to is not in the file"),
        "decoder/": ("decoder/blocks/", "the ends of the decoder are left out: its blocks are not in the file"),
    }
    notes = []
    for part, (needed, note) in ends.items():
        paths = [path for path in converted.arrays if path.startswith(part)]
        if paths and not any(path.startswith(needed) for path in converted.arrays):
            for path in paths:
                del converted.arrays[path]
                converted.ignored[converted.sources.pop(path)] = note
            notes.append(note)
    return tuple(notes)


def file_differences(
    converted: Converted,
    template: Mapping,
    key_map: KeyMap,
    arrays: Mapping[str, np.ndarray],
    bare_keys: Mapping[str, str],
    grid: Grid,
) -> list[str]:
    """Lists what is missing, left over or mis-shaped, by the keys and in the shapes of the file, one a line.

    Args:
      converted: the arrays of the file as parameters.
      template: nested dicts of leaves with a shape, the parameters of the model.
      key_map: the layout of the file.
      arrays: the arrays by the keys of the file.
      bare_keys: see `convert.import_arrays`.
      grid: the encoder's.
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(dict(template), sep="/").items()}
    problems, wrong = [], []
    for path in sorted(wanted.keys() - converted.arrays.keys()):
        problems.append(_missing(path, wanted, key_map, bare_keys, grid))
    for path, array in converted.arrays.items():
        key = converted.sources[path]
        if path not in wanted:
            problems.append(f"left over: {key} {list(arrays[key].shape)}, {path} here, which the model does not have")
        elif array.shape != wanted[path]:
            wrong.append(key)
    for key in wrong:
        found_rule = key_map.find(bare_keys[key])
        shape = arrays[key].shape
        if found_rule is not None:
            rule, paths = found_rule
            expected = _shape_in_file(rule, paths, wanted, grid)
            problems.append(f"mis-shaped: {key} is {list(shape)}, expected {list(expected)}{_cause(rule, shape, expected)}")
    return sorted(dict.fromkeys(problems))


def _missing(path: str, wanted: Mapping[str, tuple[int, ...]], key_map: KeyMap, bare_keys: Mapping[str, str], grid: Grid) -> str:
    """Returns the problem of a parameter that no array of the file gives."""
    keys = bare_keys.values()
    match = key_map.rule_of(path, keys)
    if match is None:
        return f"missing: nothing there for {path} {list(wanted[path])}, which {key_map.kind}, {key_map.layout} does not store"
    rule, key, paths = match
    shape = list(_shape_in_file(rule, paths, wanted, grid))
    return f"missing: nothing there for {path}: the file has no {key} {shape}"


def _shape_in_file(rule: Rule, paths: tuple[str, ...], wanted: Mapping[str, tuple[int, ...]], grid: Grid) -> tuple[int, ...]:
    """Returns the shape that the array of a rule has in a file whose parameters have the `wanted` shapes."""
    zero = np.zeros((), np.bool_)  # seen as an array of any shape without taking its memory
    shapes = [wanted[path] for path in paths if path in wanted]
    if len(shapes) < len(paths):
        return ()
    return TRANSFORMS[rule.transform].write(tuple(np.broadcast_to(zero, shape) for shape in shapes), grid).shape


def _cause(rule: Rule, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Returns why the array of a patch embedding has another shape, in words; empty for other arrays."""
    if not isinstance(TRANSFORMS[rule.transform], Conv) or len(shape) != len(expected):
        return ""
    causes = []
    if shape[1] != expected[1]:
        many = "channel" if shape[1] == 1 else "channels"
        causes.append(
            f"it has {shape[1]} input {many}, this model takes {expected[1]}, RGB: {_channels_remedy(shape[1], expected[1])}"
        )
    if shape[0] != expected[0]:
        causes.append(f"its width is {shape[0]}, that of the other arrays {expected[0]}")
    if shape[2:] != expected[2:]:
        size, other = ("x".join(map(str, axes[2:])) for axes in (shape, expected))
        causes.append(f"its patches are {size}, and the model's {other}: correct config.json")
    return ": " + "; ".join(causes)


def _channels_remedy(channels: int, expected: int) -> str:
    if channels == 1:
        return f"repeat that axis {expected} times and divide by {expected} for gray videos"
    return f"keep the {expected} of R, G and B" if channels > expected else "give weights of RGB videos"
