"""Our own format of weights: a folder with cvmae.json, which says what they make, and the arrays under our paths."""

import dataclasses
import pathlib
import zipfile

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util
from safetensors import SafetensorError

from cvmae.files import write_json
from cvmae.interop.description import describe, read_description
from cvmae.interop.folders import new_folder
from cvmae.interop.pretrained import Pretrained, WeightsError, shapes

DESCRIPTION = "cvmae.json"
ARRAYS = {"safetensors": "params.safetensors", "npz": "params.npz"}


def write_archive(pretrained: Pretrained, folder, kind: str = "safetensors") -> None:
    """Writes weights in our own format; the folder is there whole or not at all.

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
    if problems := misfits(arrays, wanted_arrays(pretrained)):
        raise WeightsError(pretrained.name, problems)
    with new_folder(folder) as new:
        write_arrays(new / ARRAYS[kind], arrays)
        write_json(new / DESCRIPTION, describe(pretrained, ARRAYS[kind]))


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
    fields = read_description(folder / DESCRIPTION, tuple(ARRAYS.values()))
    file = folder / fields.pop("arrays")
    blank = Pretrained(f"{folder} (our own format)", params={}, **fields)
    try:
        wanted = wanted_arrays(blank)
    except ValueError as error:  # sizes that no module can have
        raise WeightsError(str(folder / DESCRIPTION), [str(error)]) from error
    arrays = _read_arrays(file)
    if problems := misfits(arrays, wanted):
        raise WeightsError(str(file), problems)
    return dataclasses.replace(blank, params=traverse_util.unflatten_dict(arrays, sep="/"))


def wanted_arrays(pretrained: Pretrained) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of all that a `Pretrained` of these modules holds, by path; its own parameters are not looked at."""
    named = dataclasses.replace(pretrained, params=dict.fromkeys(("encoder", "decoder", "norm", "head")))
    tree = {"encoder": shapes(named.encoder)}
    for part in named.parts[1:]:
        tree |= shapes(named.take(part)[0])
    return traverse_util.flatten_dict(tree, sep="/")


def misfits(arrays: dict[str, np.ndarray], wanted: dict[str, jax.ShapeDtypeStruct]) -> list[str]:
    """Every array that is missing, left over, or of another shape or dtype, one a line."""
    problems = [f"missing: {path} {list(wanted[path].shape)}" for path in wanted if path not in arrays]
    for path, array in arrays.items():
        if path not in wanted:
            problems.append(f"left over: {path} {list(array.shape)} is not in the model that {DESCRIPTION} describes")
        elif array.shape != wanted[path].shape:
            problems.append(f"mis-shaped: {path} is {list(array.shape)}; expected {list(wanted[path].shape)}")
        elif array.dtype != wanted[path].dtype:
            problems.append(f"of another dtype: {path} is {array.dtype}; expected {wanted[path].dtype}")
    return problems


def _read_arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file by key. Raises: WeightsError where it is absent or damaged."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as opened:
                return {key: opened[key] for key in opened.files}
        return safetensors.numpy.load_file(file)
    except FileNotFoundError as error:
        raise WeightsError(str(file), [f"there is no such file, though {DESCRIPTION} names it"]) from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise WeightsError(str(file), [f"it is damaged: {error}"]) from error
