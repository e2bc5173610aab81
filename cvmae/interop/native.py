"""Our own format of weights: a folder with cvmae.json, which says what they make, and the arrays under our paths."""

import csv
import dataclasses
import json
import math
import pathlib

import numpy as np
import safetensors.numpy
from flax import traverse_util

from cvmae.files import new_folder, write_json
from cvmae.interop.arrays import non_finite, read_arrays
from cvmae.interop.pretrained import Head, Pretrained, WeightsError, differences
from cvmae.models.autoencoder import CLS_KINDS, LAYOUTS, DecoderSpec
from cvmae.models.classifier import POOLS
from cvmae.models.patches import TARGET_NORMS, Grid
from cvmae.models.positions import KINDS
from cvmae.models.vit import QKV_BIASES, Encoder, TransformerConfig, ViTSize
from cvmae.version import __version__

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


FORMAT = 1  # to be counted up when a field is added, dropped or means something else
# Attributes that change what parameters mean; how they are computed (dtype, attention, drop path) is the reader's choice.
STORED = {
    ViTSize: ("width", "depth", "heads", "mlp_ratio"),
    TransformerConfig: ("size", "qkv_bias", "eps"),
    Grid: ("num_frames", "height", "width", "tubelet", "patch"),
    Encoder: ("trunk", "grid", "positions", "cls_token", "final_norm"),
    DecoderSpec: ("trunk", "layout", "positions", "cls", "embed_bias", "norm_eps", "target_frames"),
    Head: ("classes", "pool", "eps", "names"),
}
CHOICES = {"qkv_bias": QKV_BIASES, "positions": KINDS, "layout": LAYOUTS, "cls": CLS_KINDS, "pool": POOLS}
MODULES = {"encoder": Encoder, "decoder": DecoderSpec, "head": Head}
FIELDS = ("format", "version", "arrays", *MODULES, "target_norm", "pixels", "notes")


def to_json(pretrained: Pretrained, arrays: str) -> dict:
    """What weights make, as JSON; `arrays` is the name of the file that holds them."""
    return {
        "format": FORMAT,
        "version": __version__,
        "arrays": arrays,
        **{name: _plain(getattr(pretrained, name)) for name in MODULES},
        "target_norm": pretrained.target_norm,
        "pixels": {name: list(map(float, values)) for name, values in pretrained.pixels.items()},
        "notes": list(pretrained.notes),
    }


def _plain(value):
    """A module or a field of one as JSON."""
    if type(value) in STORED:
        return {name: _plain(getattr(value, name)) for name in STORED[type(value)]}
    return list(value) if isinstance(value, tuple) else value


def from_json(file: pathlib.Path, arrays: tuple[str, ...]) -> dict:
    """The fields of a `Pretrained` but `name` and `params`, and `arrays`, the name of the file that holds these.

    Args:
      file: cvmae.json.
      arrays: the names that the file of arrays may have.

    Raises:
      WeightsError: it is not JSON, of another format, or fields are missing, unknown or wrong; all are listed.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(str(file), [f"it is not readable JSON: {error}"]) from error
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, bool) or number != FORMAT:
        why = f"format is {number!r}; cvmae {__version__} reads {FORMAT}: take the version that wrote it, or export it again"
        raise WeightsError(str(file), [why])
    problems = []
    _check_names("", found, FIELDS, problems)
    fields = {name: found.get(name) for name in FIELDS if name not in ("format", "version")}
    for name, kind in MODULES.items():
        if fields[name] is not None or name == "encoder":
            fields[name] = _module(kind, fields[name], name, problems)
    fields["pixels"] = _pixels(fields["pixels"], problems)
    fields["notes"] = _value(tuple, fields["notes"], "notes", problems)
    _choose("arrays", fields["arrays"], arrays, problems)
    _choose("target_norm", fields["target_norm"], ("", *TARGET_NORMS), problems)
    head = fields["head"]
    if head is not None and head.names and len(head.names) != head.classes:
        problems.append(f"head.names has {len(head.names)} names; head.classes is {head.classes}")
    if problems:
        raise WeightsError(str(file), problems)
    return fields


def _module(kind, found, where: str, problems: list[str]):
    """A `kind` from JSON, None where that cannot be; problems are noted."""
    if not isinstance(found, dict):
        problems.append(f"{where} is {found!r}; expected {{{', '.join(STORED[kind])}}}")
        return None
    before = len(problems)
    _check_names(f"{where}.", found, STORED[kind], problems)
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    values = {n: _value(types[n], found[n], f"{where}.{n}", problems) for n in STORED[kind] if n in found}
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _check_names(where: str, found: dict, wanted: tuple[str, ...], problems: list[str]) -> None:
    problems += [f"{where}{name} is missing" for name in wanted if name not in found]
    problems += [f"{where}{name} is not a field of format {FORMAT}" for name in found if name not in wanted]


def _choose(where: str, found, known: tuple[str, ...], problems: list[str]) -> None:
    if not isinstance(found, str) or found not in known:
        problems.append(f"{where} is {found!r}; expected one of {', '.join(map(repr, known))}")


def _value(kind, found, where: str, problems: list[str]):
    """A value of the type of a field; a problem is noted where it is of another one or out of range."""
    name = where.rpartition(".")[2]
    number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    if kind in STORED:
        return _module(kind, found, where, problems)
    if name in CHOICES:
        _choose(where, found, CHOICES[name], problems)
    elif kind is bool:
        if not isinstance(found, bool):
            problems.append(f"{where} is {found!r}; expected true or false")
    elif kind is int:
        least = 0 if name == "target_frames" else 1
        if not number or not isinstance(found, int) or found < least:
            problems.append(f"{where} is {found!r}; expected a whole number of at least {least}")
    elif kind is float:
        if not number or found <= 0:
            problems.append(f"{where} is {found!r}; expected a number above 0")
    elif not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        problems.append(f"{where} is {found!r}; expected a list of texts")
    else:
        return tuple(found)
    return found


def _pixels(found, problems: list[str]) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of a channel each, or nothing."""
    if found == {}:
        return {}
    if not isinstance(found, dict) or set(found) != {"mean", "std"}:
        problems.append(f"pixels is {found!r}; expected {{}} or mean and std")
        return {}
    for name, values in found.items():
        numbers = isinstance(values, list) and [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if not numbers or len(numbers) != 3 or len(values) != 3 or (name == "std" and min(numbers) <= 0):
            problems.append(f"pixels.{name} is {values!r}; expected three numbers{' above 0' if name == 'std' else ''}")
            return {}
    return {name: tuple(map(float, found[name])) for name in ("mean", "std")}
