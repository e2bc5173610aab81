"""Our own format of weights: a folder with cvmae.json, which says what they make, and the arrays under our paths."""

import csv
import dataclasses
import pathlib

import numpy as np
import safetensors.numpy
from flax import traverse_util

from cvmae.files import new_folder, write_json
from cvmae.interop.archive_json import from_json, to_json
from cvmae.interop.arrays import non_finite, read_arrays
from cvmae.interop.pretrained import Pretrained, WeightsError, differences

DESCRIPTION, KEYS = "cvmae.json", "keys.csv"
ARRAYS = {"safetensors": "params.safetensors", "npz": "params.npz"}


def write_archive(pretrained: Pretrained, folder, kind: str = "safetensors") -> None:
    """Writes weights in our own format; the folder is there whole or not at all.

    Where the weights were someone else's, keys.csv says of every key of their file where it went, or why nowhere.

    Args:
      pretrained: the weights.
      folder: where; not there yet, or empty.
      kind: of the file of arrays, one of `ARRAYS`.

    Raises:
      ValueError: the kind is unknown.
      WeightsError: the parameters are not those of the modules, so that nobody could read them again.
      FileExistsError: the folder holds something.
    """
    if kind not in ARRAYS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(ARRAYS)}")
    arrays = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(pretrained.params, sep="/").items()}
    if problems := _misfits(arrays, pretrained):
        raise WeightsError(pretrained.name, problems)
    with new_folder(folder) as new:
        write_arrays(new / ARRAYS[kind], arrays)
        write_json(new / DESCRIPTION, to_json(pretrained, ARRAYS[kind]))
        if pretrained.sources or pretrained.ignored:
            _write_keys(new / KEYS, pretrained)


def _write_keys(file: pathlib.Path, pretrained: Pretrained) -> None:
    """A row for every key of the file that the weights were read from."""
    rows = [(key, path, "") for path, key in pretrained.sources.items()]
    rows += [(key, "", reason) for key, reason in pretrained.ignored.items()]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("key", "parameter", "left_out_because"))
        writer.writerows(rows)


def write_arrays(file: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by key into a file that is named .npz or .safetensors."""
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    if file.suffix == ".npz":
        np.savez(file, **arrays)
    else:
        safetensors.numpy.save_file(arrays, file)


def is_archive(path) -> bool:
    """Whether `path` is a folder in our own format, or one of its two files."""
    path = pathlib.Path(path)
    if path.name in (DESCRIPTION, *ARRAYS.values()) and path.is_file():
        path = path.parent
    return (path / DESCRIPTION).is_file()


def read_archive(path) -> Pretrained:
    """Reads what `write_archive` wrote, from the folder or a file in it. The arrays are those that were written, bit by bit.

    Raises:
      FileNotFoundError: there is no such folder.
      WeightsError: it is damaged, of another format, or its arrays are not those of what it describes; all problems are listed.
    """
    if not is_archive(path):
        raise FileNotFoundError(f"{path} is no folder in our own format: it holds no {DESCRIPTION}")
    folder = pathlib.Path(path)
    folder = folder if folder.is_dir() else folder.parent
    fields = from_json(folder / DESCRIPTION, tuple(ARRAYS.values()))
    file = folder / fields.pop("arrays")
    if not file.is_file():
        raise WeightsError(str(folder), [f"{file.name} is missing, which {DESCRIPTION} names"])
    arrays, blank = read_arrays(file), Pretrained(f"{folder} (our own format)", params={}, **fields)
    try:
        problems = _misfits(arrays, blank)
    except ValueError as error:  # sizes that no module can have
        raise WeightsError(str(folder / DESCRIPTION), [str(error)]) from error
    if problems:
        raise WeightsError(str(file), problems)
    return dataclasses.replace(blank, params=traverse_util.unflatten_dict(arrays, sep="/"))


def _misfits(arrays: dict[str, np.ndarray], pretrained: Pretrained) -> list[str]:
    """Every array that is missing, left over, mis-shaped, no float32 or not finite, one a line."""
    problems = differences(arrays, pretrained.template())
    problems += [
        f"of another dtype: {path} is {a.dtype}; expected float32" for path, a in arrays.items() if a.dtype != np.float32
    ]
    return problems + non_finite(arrays)
