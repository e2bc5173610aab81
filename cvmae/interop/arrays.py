"""Reads the arrays of a weights file by key, in any format; no format is read in a way that could run code from the file."""

import contextlib
import json
import lzma
import os
import pathlib
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from ml_dtypes import bfloat16  # safetensors finds the dtype by its name, which this import makes known to numpy
from safetensors import SafetensorError, safe_open

from cvmae.files import LFS_POINTER, is_lfs_pointer
from cvmae.interop import torch_file
from cvmae.interop.pretrained import WeightsError, first_line, unreadable

INDEX = "model.safetensors.index.json"  # transformers' list of the files that hold a large model's arrays
TORCH_INDEX = "pytorch_model.bin.index.json"  # the same of files of torch.save
INDICES = {INDEX: ".safetensors", TORCH_INDEX: ".bin"}
IN_FOLDER = ("model.safetensors", INDEX, "pytorch_model.bin", TORCH_INDEX)
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", INDEX, ".npz", *TORCH_SUFFIXES, TORCH_INDEX)
_AGAIN = "get it again if a download or a copy was cut short, else save it again where it was made"
_SHARD = re.compile(r"(?P<name>.+)-[0-9]{5}-of-(?P<count>[0-9]{5})(?P<suffix>\.safetensors|\.bin)")

# The errors of numpy, its reader of headers, and zipfile with its decompressors on damaged archives.
NPZ_ERRORS = (
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def known_suffix(path) -> str:
    """Returns the one of `SUFFIXES` that a path ends with; empty if none. An index has to have just its name."""
    name = os.path.basename(os.fspath(path))
    return name if name in INDICES else next((s for s in SUFFIXES if s not in INDICES and name.lower().endswith(s)), "")


# What exports of this package are called that are programs: the export, and what runs it.
PROGRAM, ONNX_MODEL = "model.jax_export", "model.onnx"
PROGRAMS = {PROGRAM: ("stablehlo", "jax.export"), ONNX_MODEL: ("onnx", "onnxruntime")}


def find_file(path) -> str:
    """Returns the weights file of `path`.

    Args:
      path: a file with one of `SUFFIXES`, or a folder that holds one of `IN_FOLDER`, taken in that order.

    Raises:
      FileNotFoundError: there is no such file, or it is a program.
      WeightsError: the suffix belongs to no format that is read.
    """
    path = os.fspath(path)
    _refuse_program(path)
    if os.path.isdir(path):
        for name in IN_FOLDER:
            if os.path.isfile(os.path.join(path, name)):
                return os.path.join(path, name)
        shards = sorted(name for name in os.listdir(path) if _SHARD.fullmatch(name))
        if shards:
            raise FileNotFoundError(f"{_alone(shards[0])} of the folder {path}: expected {_index_of(shards[0])} beside it")
        raise FileNotFoundError(
            f"no weights in the folder {path}: expected {', '.join(IN_FOLDER)}; give the file itself if its name is another"
        )
    if not os.path.isfile(path):
        expected = f"a file ({', '.join(SUFFIXES)}) or a folder with {', '.join(IN_FOLDER)}"
        raise FileNotFoundError(f"no weights at {path}, there is no such file: expected {expected}")
    if not known_suffix(path):
        suffix = os.path.splitext(path)[1]
        raise WeightsError(path, [f"its suffix is {suffix!r}; files that are read end with {', '.join(SUFFIXES)}"])
    shard = _SHARD.fullmatch(os.path.basename(path))
    if shard and int(shard["count"]) > 1:
        raise WeightsError(
            path, [f"{_alone(shard[0])}: give the folder or {_index_of(shard[0])}, with all of the files beside it"]
        )
    return path


def _refuse_program(path: str) -> None:
    """Raises FileNotFoundError for the folder of an export that is a program, and for the program in it."""
    for name, (export, library) in PROGRAMS.items():
        file = os.path.join(path, name) if os.path.isdir(path) else path
        if os.path.basename(file) == name and os.path.isfile(file):
            raise FileNotFoundError(
                f"no weights at {path}, but a program that --to={export} wrote: run it with {library}, as the README.md there shows, "
                "or give the workdir or the weights that it was made from"
            )


def _alone(shard: str) -> str:
    return f"{shard} is a shard, one of several files that hold the weights together"


def _index_of(shard: str) -> str:
    match = _SHARD.fullmatch(shard)
    return f"{match['name']}{match['suffix']}.index.json" if match else INDEX


def read_arrays(file, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """Reads every array of a weights file by key, in the file's dtypes; bfloat16 is that of `ml_dtypes`.

    Args:
      file: see `find_file`.
      notes: for those on the state dict of a torch file, see `torch_file.read_state`.

    Raises:
      WeightsError: the file is damaged, of another format, holds no arrays, or would need to run code.
      FileNotFoundError: there is no such file.
    """
    file = find_file(file)
    _refuse_placeholder(file)
    suffix = known_suffix(file)
    if suffix in TORCH_SUFFIXES:
        arrays = torch_file.read_state(file, notes)
    else:
        arrays = _read_shards(file) if suffix in INDICES else {".safetensors": _read_safetensors, ".npz": _read_npz}[suffix](file)
    if not arrays:
        raise WeightsError(file, ["it holds no arrays"])
    return arrays


def _refuse_placeholder(file: str) -> None:
    """Raises WeightsError for what git keeps in place of a large file, and for a page that a site gave in place of it."""
    with open(file, "rb") as opened:
        head = opened.read(64)
    if is_lfs_pointer(head):
        raise WeightsError(file, [f"it is {LFS_POINTER}"])
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(file, ["it is a page of HTML or XML, as a site gives that wants a login: get the file itself"])


def empty(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Lists every array without values, one a line."""
    return [
        f"empty: {key} is {list(array.shape)}, without a value: save the model again where it was made"
        for key, array in arrays.items()
        if not array.size
    ]


def non_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Lists every floating-point array that holds NaN or infinity, one a line: its key and how many of its values."""
    problems = []
    for key, array in arrays.items():
        if array.dtype == bfloat16 or np.issubdtype(array.dtype, np.inexact):
            bad = array.size - np.count_nonzero(np.isfinite(array))
            if bad:
                problems.append(f"not finite: {bad} of the {array.size} values of {key} are NaN or infinite")
    return problems


def all_zero(params: Mapping[str, np.ndarray], sources: Mapping[str, str] | None = None) -> list[str]:
    """Lists every kernel, and every scale of a norm, of an encoder or decoder whose values are all zero, one a line.

    No training leaves such: a file whose download was interrupted does, where the system fills the rest with zeros.

    Args:
      params: arrays by parameter path.
      sources: {path: the key of the file}, for messages.
    """
    zero = [path for path, array in params.items() if _is_trained(path) and array.size and not np.any(array)]
    remedy = "as an interrupted download leaves it: get the file again"
    return [f"all zero: the {params[path].size} values of {(sources or {}).get(path, path)}, {remedy}" for path in zero]


def _is_trained(path: str) -> bool:
    part, _, rest = path.partition("/")
    return part in ("encoder", "decoder") and rest.endswith(("kernel", "scale")) and "layer_scale" not in rest


@contextlib.contextmanager
def _safetensors(file: str):
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        remedy = f": {_AGAIN}" if isinstance(error, SafetensorError) else ""
        raise WeightsError(file, [f"it is not a readable safetensors file: {error}{remedy}"]) from error


def _read_safetensors(file: str) -> dict[str, np.ndarray]:
    arrays, reasons = {}, {}
    with _safetensors(file) as opened:
        for key in opened.keys():  # noqa: SIM118 - a safetensors file is not iterable
            try:
                arrays[key] = opened.get_tensor(key)
            except (AttributeError, TypeError, ValueError, MemoryError):  # numpy lacks the dtype, or refuses the shape
                entry = opened.get_slice(key)
                dtype = entry.get_dtype()
                reasons[key] = (
                    f"it is {dtype}, whose scales are not among the weights: get them in float32 or bfloat16"
                    if dtype.startswith("F8")
                    else f"numpy has no {dtype} array of the shape {entry.get_shape()}"
                )
    if reasons:
        raise WeightsError(file, unreadable(reasons))
    return arrays


def _open_npz(file: str) -> np.lib.npyio.NpzFile:
    try:
        opened = np.load(file, allow_pickle=False)
    except NPZ_ERRORS as error:
        # numpy takes a file that is no archive for a pickle, and advises to load it anyway.
        why = "it is no zip archive" if "pickle" in str(error) else npz_reason(error)
        raise WeightsError(file, [f"it is not a readable npz file: {why}: {_AGAIN}"]) from error
    if isinstance(opened, np.ndarray):
        raise WeightsError(file, ["it is not an npz file but a single array without a key: save it with np.savez(key=array)"])
    return opened


def _read_npz(file: str) -> dict[str, np.ndarray]:
    arrays, problems = {}, []
    with _open_npz(file) as opened:
        for key in opened.files:
            try:
                array = opened[key]
            except NPZ_ERRORS as error:
                why = "it is pickled, which could run code" if "allow_pickle" in str(error) else npz_reason(error)
                problems.append(f"{key} cannot be read: {why}")
                continue
            if not isinstance(array, np.ndarray):
                problems.append(f"{key} is no array")
            elif array.dtype == np.dtype("V2"):
                arrays[key] = array.view(bfloat16)  # np.savez has no name for bfloat16 and writes two bytes of anything
            elif array.dtype.kind == "V":
                problems.append(f"{key} is of the dtype {array.dtype}, which is not supported")
            else:
                arrays[key] = array
    if problems:
        raise WeightsError(file, problems)
    return arrays


def npz_reason(error: Exception) -> str:
    """Returns one of NPZ_ERRORS in a few words."""
    return first_line(error) or "it is cut short"


def _weight_map(file: str) -> dict[str, str]:
    """Reads an index: {key: the file beside it that holds it}."""
    suffix = INDICES[os.path.basename(file)]
    try:
        shards = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(file, [f"it is no index of {suffix.removeprefix('.')} files with a weight_map: {error!r}"]) from error
    if not isinstance(shards, dict):
        raise WeightsError(file, [f"its weight_map is a {type(shards).__name__}; expected keys and the names of files"])
    # A name that leads out of the folder could make any file of this machine part of the weights.
    bad = sorted({repr(s) for s in shards.values() if not isinstance(s, str) or not s.endswith(suffix) or _leads_away(s)})
    if bad:
        raise WeightsError(file, [f"its weight_map names {name}; expected a {suffix} file beside it" for name in bad])
    return shards


def _leads_away(name: str) -> bool:
    return "/" in name or "\\" in name


def _read_shards(file: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    problems: list[str] = []
    shards = _weight_map(file)
    for name in sorted(set(shards.values())):
        shard = os.path.join(os.path.dirname(file), name)
        if not os.path.isfile(shard):
            problems.append(f"{name} is missing: every file that the index names must be beside it")
            continue
        _refuse_placeholder(shard)
        shard_arrays = _read_safetensors(shard) if name.endswith(".safetensors") else torch_file.read_state(shard)
        wanted = {key for key, file_name in shards.items() if file_name == name}
        problems += [f"{name} does not hold {key}, which the index lists" for key in sorted(wanted - shard_arrays.keys())]
        problems += [f"{name} holds {key}, which the index does not list" for key in sorted(shard_arrays.keys() - wanted)]
        arrays |= shard_arrays
    if problems:
        raise WeightsError(file, problems)
    return {key: arrays[key] for key in shards}
