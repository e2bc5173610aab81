"""This package's own weights format: a folder with cvmae.json, which describes the modules, and one file of arrays by parameter path.

cvmae.json holds the fields of `STORED`, nothing else and all of them; keys.csv, for weights from another file, says for each
of its keys which parameter it became, or why it was left out.
"""

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
from cvmae.interop.pretrained import Head, Normalization, Pretrained, WeightsError, differences, too_large
from cvmae.models.autoencoder import CLS_KINDS, LAYOUTS, DecoderSpec
from cvmae.models.classifier import LOSSES, POOLS
from cvmae.models.patches import TARGET_NORMS, Grid
from cvmae.models.positions import KINDS
from cvmae.models.vit import MLPS, QKV_BIASES, Encoder, TransformerConfig, ViTSize
from cvmae.version import __version__

DESCRIPTION, KEYS = "cvmae.json", "keys.csv"
ARRAYS = {"safetensors": "params.safetensors", "npz": "params.npz"}

LARGEST = 1 << 16  # of any size; far above every model
FORMAT = 1  # increased whenever a field is added, dropped or changes its meaning
# Attributes that change the meaning of parameters; how they are computed (dtype, attention, drop path) is the reader's choice.
STORED = {
    ViTSize: ("width", "depth", "heads", "mlp_ratio"),
    TransformerConfig: ("size", "qkv_bias", "eps"),
    Grid: ("num_frames", "height", "width", "tubelet", "patch"),
    Encoder: ("trunk", "grid", "positions", "cls_token", "final_norm"),
    DecoderSpec: ("trunk", "layout", "positions", "cls", "embed_bias", "norm_eps", "target_frames"),
    Head: ("classes", "pool", "eps", "names"),
}
# Fields that are written where they differ from their default, so that other descriptions stay those of earlier versions.
OPTIONAL: dict[type, tuple[str, ...]] = {TransformerConfig: ("mlp",), Head: ("loss",)}
CHOICES = {
    "qkv_bias": QKV_BIASES,
    "mlp": MLPS,
    "positions": KINDS,
    "layout": LAYOUTS,
    "cls": CLS_KINDS,
    "pool": POOLS,
    "loss": LOSSES,
}
MODULES = {"encoder": Encoder, "decoder": DecoderSpec, "head": Head}
FIELDS = ("format", "version", "arrays", *MODULES, "target_norm", "pixels", "notes")  # `pixels`: the normalization


def write_archive(pretrained: Pretrained, folder, kind: str = "safetensors") -> None:
    """Writes weights in this package's own format, all or nothing.

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
    _, problems = _fields(description, tuple(ARRAYS.values()))
    if problems := problems or _misfits(arrays, pretrained):
        raise WeightsError(pretrained.name, problems)
    with new_folder(folder) as new:
        write_arrays(new / ARRAYS[kind], arrays)
        write_json(new / DESCRIPTION, description)
        if pretrained.sources or pretrained.ignored:
            _write_keys(new / KEYS, pretrained)


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
    try:
        problems = _misfits(arrays, blank)
    except ValueError as error:  # sizes that no module can have
        raise WeightsError(str(folder / DESCRIPTION), [str(error)]) from error
    if problems:
        raise WeightsError(str(file), problems)
    return dataclasses.replace(blank, params=traverse_util.unflatten_dict(arrays, sep="/"))


def _impossible(pretrained: Pretrained, arrays: dict[str, np.ndarray]) -> list[str]:
    """Lists sizes of the description that would take all memory or time to compare with the arrays, one a line."""
    encoder = pretrained.vit
    trunks = {"encoder": encoder.trunk} | ({} if pretrained.decoder is None else {"decoder": pretrained.decoder.trunk})
    problems = []
    for name, trunk in trunks.items():
        if trunk.size.depth > len(arrays):
            problems.append(
                f"{name}.trunk.size.depth is {trunk.size.depth}; expected no more blocks than the {len(arrays)} arrays"
            )
        if problem := too_large(encoder.grid, trunk.size.width):
            problems.append(f"{name}.trunk.size.width and encoder.grid: {problem}")
    return problems


def _misfits(arrays: dict[str, np.ndarray], pretrained: Pretrained) -> list[str]:
    """Lists every array that is missing, left over, mis-shaped, not float32 or not finite, one a line."""
    problems = differences(arrays, pretrained.template())
    problems += [
        f"of another dtype: {path} is {a.dtype}; expected float32" for path, a in arrays.items() if a.dtype != np.float32
    ]
    return problems + non_finite(arrays)


def to_json(pretrained: Pretrained, arrays: str) -> dict:
    """Describes weights as JSON; `arrays` is the name of the file that holds them. Raises: ValueError, the encoder is no ViT."""
    modules = {"encoder": pretrained.vit, "decoder": pretrained.decoder, "head": pretrained.head}
    return {
        "format": FORMAT,
        "version": __version__,
        "arrays": arrays,
        **{name: _plain(module) for name, module in modules.items()},
        "target_norm": pretrained.target_norm,
        "pixels": {name: list(map(float, values)) for name, values in pretrained.normalization.items()},
        "notes": list(pretrained.notes),
    }


def _plain(value):
    """Returns a module, or a field of one, as JSON."""
    if type(value) in STORED:
        defaults = {field.name: field.default for field in dataclasses.fields(value)}
        names = [name for name in OPTIONAL.get(type(value), ()) if getattr(value, name) != defaults[name]]
        return {name: _plain(getattr(value, name)) for name in (*STORED[type(value)], *names)}
    return list(value) if isinstance(value, tuple) else value


def from_json(file: pathlib.Path, arrays: tuple[str, ...]) -> dict:
    """Reads cvmae.json.

    Args:
      file: cvmae.json.
      arrays: the names that the file of arrays may have.

    Returns:
      The fields of a `Pretrained` but `name` and `params`, and `arrays`, the name of the file that holds the parameters.

    Raises:
      WeightsError: it is not JSON, of another format, or fields are missing, unknown or wrong; all are listed.
    """
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets in brackets
        raise WeightsError(str(file), [f"it is not readable JSON: {error}"]) from error
    number = description.get("format") if isinstance(description, dict) else None
    if isinstance(number, bool) or number != FORMAT:
        why = f"format is {number!r}; cvmae {__version__} reads {FORMAT}: take the version that wrote it, or export it again"
        raise WeightsError(str(file), [why])
    fields, problems = _fields(description, arrays)
    if problems:
        raise WeightsError(str(file), problems)
    return fields


def _fields(description: dict, arrays: tuple[str, ...]) -> tuple[dict, list[str]]:
    """Returns the fields of `from_json`, and the problems of a description, one a line."""
    problems: list[str] = []
    _check_names("", description, FIELDS, problems)
    fields = {name: description.get(name) for name in FIELDS if name not in ("format", "version")}
    for name, module_class in MODULES.items():
        if fields[name] is not None or name == "encoder":
            fields[name] = _module(module_class, fields[name], name, problems)
    fields["normalization"] = _normalization(fields.pop("pixels"), problems)
    fields["notes"] = _value(tuple, fields["notes"], "notes", problems)
    _check_choice("arrays", fields["arrays"], arrays, problems)
    _check_choice("target_norm", fields["target_norm"], ("", *TARGET_NORMS), problems)
    head = fields["head"]
    if head is not None and head.names and len(head.names) != head.classes:
        problems.append(f"head.names has {len(head.names)} names; head.classes is {head.classes}")
    return fields, problems


def _module(module_class, value, field: str, problems: list[str]):
    """Makes a module from JSON; None if that cannot be. Appends to `problems`."""
    if not isinstance(value, dict):
        problems.append(f"{field} is {value!r}; expected {{{', '.join(STORED[module_class])}}}")
        return None
    before = len(problems)
    optional = OPTIONAL.get(module_class, ())
    _check_names(f"{field}.", value, STORED[module_class], problems, optional)
    types = {field.name: field.type for field in dataclasses.fields(module_class)}
    values = {n: _value(types[n], value[n], f"{field}.{n}", problems) for n in (*STORED[module_class], *optional) if n in value}
    if len(problems) > before:
        return None
    try:
        return module_class(**values)
    except ValueError as error:
        problems.append(f"{field}: {error}")
        return None


def _check_names(prefix: str, values: dict, wanted: tuple[str, ...], problems: list[str], optional: tuple[str, ...] = ()) -> None:
    problems += [f"{prefix}{name} is missing" for name in wanted if name not in values]
    problems += [f"{prefix}{name} is not a field of format {FORMAT}" for name in values if name not in wanted + optional]


def _check_choice(field: str, value, known: tuple[str, ...], problems: list[str]) -> None:
    if not isinstance(value, str) or value not in known:
        problems.append(f"{field} is {value!r}; expected one of {', '.join(map(repr, known))}")


def _value(value_type, value, field: str, problems: list[str]):
    """Returns a value as the type of its field; appends to `problems` if it is of another type or out of range."""
    name = field.rpartition(".")[2]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if value_type in STORED:
        return _module(value_type, value, field, problems)
    if name in CHOICES:
        _check_choice(field, value, CHOICES[name], problems)
    elif value_type is bool:
        if not isinstance(value, bool):
            problems.append(f"{field} is {value!r}; expected true or false")
    elif value_type is int:
        least = 0 if name == "target_frames" else 1
        if not is_number or not isinstance(value, int) or value < least:
            problems.append(f"{field} is {value!r}; expected a whole number of at least {least}")
        elif value > LARGEST:
            problems.append(f"{field} is {value!r}; expected a whole number of at most {LARGEST}")
    elif value_type is float:
        if not is_number or value <= 0:
            problems.append(f"{field} is {value!r}; expected a number above 0")
        elif value > LARGEST:
            problems.append(f"{field} is {value!r}; expected a number of at most {LARGEST}")
    elif not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        problems.append(f"{field} is {value!r}; expected a list of texts")
    else:
        return tuple(value)
    return value


def _normalization(value, problems: list[str]) -> Normalization:
    """Returns `mean` and `std` of the field `pixels`, or nothing. Appends to `problems`."""
    if value == {}:
        return {}
    if not isinstance(value, dict) or set(value) != {"mean", "std"}:
        problems.append(f"pixels is {value!r}; expected {{}} or mean and std")
        return {}
    for name, values in value.items():
        numbers = isinstance(values, list) and [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if not numbers or len(numbers) != 3 or len(values) != 3 or (name == "std" and min(numbers) <= 0):
            problems.append(f"pixels.{name} is {values!r}; expected three numbers{' above 0' if name == 'std' else ''}")
            return {}
    return {name: tuple(map(float, value[name])) for name in ("mean", "std")}
