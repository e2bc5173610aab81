"""This package's own weights format: a folder with cvmae.json, which describes the modules, and one file of arrays by parameter path.

`description` has the fields of cvmae.json; keys.csv, for weights from another file, says for each of its keys which parameter it
became, or why it was left out.
"""

import csv
import dataclasses
import pathlib

import numpy as np
import safetensors.numpy
from flax import traverse_util

from cvmae.files import new_folder, write_json
from cvmae.interop.arrays import all_zero, non_finite, read_arrays
from cvmae.interop.convert import cast_note, is_floating, to_float32
from cvmae.interop.description import from_json, parse_fields, to_json
from cvmae.interop.model_card import Export, write_card
from cvmae.interop.pretrained import Pretrained, WeightsError, differences, too_large
from cvmae.interop.resize import at_crop

DESCRIPTION, KEYS = "cvmae.json", "keys.csv"
ARRAYS = {"safetensors": "params.safetensors", "npz": "params.npz"}


def write_archive(pretrained: Pretrained, folder, kind: str = "safetensors") -> None:
    """Writes weights in this package's own format with a model card, all or nothing.

    Args:
      pretrained: the weights.
      folder: the folder to write; not there yet, or empty.
      kind: the format of the arrays, one of `ARRAYS`.

    Raises:
      ValueError: the kind is unknown.
      WeightsError: the parameters are not those of the modules, or the description is not one that `read_archive` takes.
      FileExistsError: the folder holds files.
    """
    if kind not in ARRAYS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(ARRAYS)}")
    arrays = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(pretrained.params, sep="/").items()}
    description = to_json(pretrained, ARRAYS[kind])
    _, problems = parse_fields(description, tuple(ARRAYS.values()))
    if problems := problems or _misfits(arrays, pretrained):
        raise WeightsError(pretrained.name, problems)
    with new_folder(folder) as new:
        write_arrays(new / ARRAYS[kind], arrays)
        write_json(new / DESCRIPTION, description)
        write_card(new, pretrained, pretrained.parts[-1], _export(pretrained, kind), pathlib.Path(folder).absolute().name)
        if pretrained.sources or pretrained.ignored:
            _write_keys(new / KEYS, pretrained)


def _export(pretrained: Pretrained, kind: str) -> Export:
    """Returns the lines of the model card, which load the folder that they are run in."""
    grid = at_crop(pretrained).encoder.grid  # as `cvmae.load` takes it
    clips = f"np.zeros((1, {grid.num_frames}, {grid.height}, {grid.width}, 3), np.float32)  # normalized as in training"
    if pretrained.normalization:
        clips = f"preprocessing(np.zeros(({grid.num_frames}, 240, 320, 3), np.uint8))  # the frames of a clip, RGB"
    usage = (
        "import numpy as np",
        "",
        "import cvmae  # the package crossvideomae",
        "",
        'folder = "."  # this folder, or hf:OWNER/NAME on the Hugging Face hub',
        "module, params, preprocessing = cvmae.load(folder)",
        f"clips = {clips}",
        'outputs = module.apply({"params": params}, clips)',
    )
    return Export(kind, "crossvideomae", usage)


def write_arrays(file: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by key into a file whose name ends with .npz or .safetensors."""
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    if file.suffix == ".npz":
        np.savez(file, allow_pickle=False, **arrays)
    else:
        safetensors.numpy.save_file(arrays, file)


def _write_keys(file: pathlib.Path, pretrained: Pretrained) -> None:
    """Writes a row for every key of the file that the weights were read from."""
    rows = [(key, path, "") for path, key in pretrained.sources.items()]
    rows += [(key, "", reason) for key, reason in pretrained.ignored.items()]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("key", "parameter", "left_out_because"))
        writer.writerows(rows)


def is_archive(path) -> bool:
    """Returns True if `path` is a folder in this format, or one of its two files."""
    path = pathlib.Path(path)
    if path.name in (DESCRIPTION, *ARRAYS.values()) and path.is_file():
        path = path.parent
    return (path / DESCRIPTION).is_file()


def read_archive(path) -> Pretrained:
    """Reads what `write_archive` wrote, from the folder or a file in it; the arrays come back bit by bit.

    Arrays of another floating-point precision, to which a user converted them, are cast to float32, and a note says so.

    Raises:
      FileNotFoundError: there is no such folder.
      WeightsError: it is damaged, of another format, or its arrays are not those of what it describes; all problems are listed.
    """
    if not is_archive(path):
        raise FileNotFoundError(f"{path} is not an export of this package: it holds no {DESCRIPTION}")
    folder = pathlib.Path(path)
    folder = folder if folder.is_dir() else folder.parent
    fields = from_json(folder / DESCRIPTION, tuple(ARRAYS.values()))
    file = folder / fields.pop("arrays")
    if not file.is_file():
        raise WeightsError(str(folder), [f"{file.name} is missing, which {DESCRIPTION} names"])
    arrays, blank = read_arrays(file), Pretrained(f"{folder} (exported by this package)", params={}, **fields)
    if problems := _impossible(blank, arrays):
        raise WeightsError(str(folder / DESCRIPTION), problems)
    arrays, casts, problems = _in_float32(arrays)
    try:
        arrays, prefix = _without_prefix(arrays, blank)
        problems += _misfits(arrays, blank)
    except ValueError as error:  # sizes that no module can have
        raise WeightsError(str(folder / DESCRIPTION), [str(error)]) from error
    if problems:
        raise WeightsError(str(file), problems)
    notes: tuple[str, ...] = (cast_note(casts),) if casts else ()
    notes += (f"the prefix {prefix!r} is taken off the keys of {file.name}",) if prefix else ()
    return dataclasses.replace(blank, params=traverse_util.unflatten_dict(arrays, sep="/"), notes=blank.notes + notes)


def _in_float32(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    """Casts floating-point arrays that a user converted to another precision; returns the arrays, the dtypes, and problems."""
    problems: list[str] = []
    other = {key: array for key, array in arrays.items() if array.dtype != np.float32 and is_floating(array)}
    cast = {key: to_float32(key, array, problems) for key, array in other.items()}
    return arrays | cast, {array.dtype.name for array in other.values()}, problems


def _without_prefix(arrays: dict[str, np.ndarray], pretrained: Pretrained) -> tuple[dict[str, np.ndarray], str]:
    """Takes off what a wrapper (`module.`, `_orig_mod.`) put before every key; returns the arrays and the prefix, empty without one."""
    paths = traverse_util.flatten_dict(pretrained.template(), sep="/")
    last = next(reversed(paths))
    for key in arrays:
        prefix = key.removesuffix(last)
        if prefix and key.endswith(last) and arrays.keys() == {prefix + path for path in paths}:
            return {path: arrays[prefix + path] for path in paths}, prefix
    return arrays, ""


def _impossible(pretrained: Pretrained, arrays: dict[str, np.ndarray]) -> list[str]:
    """Lists sizes of the description that would take all memory or time to compare with the arrays, one a line."""
    encoder = pretrained.block_encoder
    trunks = {"encoder": encoder.trunk} | ({} if pretrained.decoder is None else {"decoder": pretrained.decoder.trunk})
    problems = []
    for name, trunk in trunks.items():
        if trunk.size.depth > len(arrays):
            problems.append(
                f"{name}.trunk.size.depth is {trunk.size.depth}; expected no more blocks than the {len(arrays)} arrays"
            )
        if problem := too_large(encoder.grid, trunk.size.width):
            problems.append(f"{name}.trunk.size.width and encoder.grid: {problem}")
    temporal = getattr(encoder, "temporal_blocks", 0)
    if temporal > len(arrays):
        problems.append(f"encoder.temporal_blocks is {temporal}; expected no more blocks than the {len(arrays)} arrays")
    if pretrained.head is not None and pretrained.head.blocks > len(arrays):
        problems.append(f"head.blocks is {pretrained.head.blocks}; expected no more blocks than the {len(arrays)} arrays")
    return problems


def _misfits(arrays: dict[str, np.ndarray], pretrained: Pretrained) -> list[str]:
    """Lists every array that is missing, left over, mis-shaped, not float32, not finite or zero where it cannot be, one a line."""
    problems = differences(arrays, pretrained.template())
    problems += [
        f"of another dtype: {path} is {a.dtype}; expected float32" for path, a in arrays.items() if a.dtype != np.float32
    ]
    return problems + non_finite(arrays) or all_zero(arrays)
