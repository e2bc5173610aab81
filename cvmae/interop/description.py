"""The description of weights in this package's own format, cvmae.json: written from a `Pretrained`, and checked field by field.

It holds the fields of `STORED`, nothing else and all of them; those of `OPTIONAL` only where they differ from their defaults.
"""

import dataclasses
import json
import math
import pathlib

from cvmae.files import without_paths
from cvmae.interop.pretrained import FrameSampling, Head, Normalization, Pretrained, WeightsError
from cvmae.models.autoencoder import CLS_KINDS, LAYOUTS, DecoderSpec
from cvmae.models.classifier import LOSSES, POOLS
from cvmae.models.factorized import FactorizedEncoder
from cvmae.models.patches import TARGET_NORMS, Grid
from cvmae.models.positions import KINDS
from cvmae.models.vit import MLPS, QKV_BIASES, Encoder, TransformerConfig, ViTSize
from cvmae.version import __version__

LARGEST = 1 << 16  # of any size; far above every model
FORMAT = 1  # increased whenever a field that every description has is added, dropped or changes its meaning
# Attributes that change the meaning of parameters; how they are computed (dtype, attention, drop path) is the reader's choice.
STORED = {
    ViTSize: ("width", "depth", "heads", "mlp_ratio"),
    TransformerConfig: ("size", "qkv_bias", "eps"),
    Grid: ("num_frames", "height", "width", "tubelet", "patch"),
    Encoder: ("trunk", "grid", "positions", "cls_token", "final_norm"),
    FactorizedEncoder: ("trunk", "grid", "temporal_blocks", "final_norm"),
    DecoderSpec: ("trunk", "layout", "positions", "cls", "embed_bias", "norm_eps", "target_frames"),
    Head: ("classes", "pool", "eps", "names"),
    FrameSampling: ("stride", "fps", "square_pixels"),
}
# Fields that are written where they differ from their default, so that other descriptions stay those of earlier versions.
OPTIONAL: dict[type, tuple[str, ...]] = {
    TransformerConfig: ("mlp", "layer_scale", "softcap"),
    Encoder: ("registers",),
    Head: ("loss", "blocks", "heads"),
}
CHOICES = {
    "qkv_bias": QKV_BIASES,
    "mlp": MLPS,
    "positions": KINDS,
    "layout": LAYOUTS,
    "cls": CLS_KINDS,
    "pool": POOLS,
    "loss": LOSSES,
}
# Of `encoder.backbone`, which is absent for a ViT.
ENCODERS = {"factorized": FactorizedEncoder}
MODULES = {"encoder": Encoder, "decoder": DecoderSpec, "head": Head, "sampling": FrameSampling}
# `pixels`: the normalization.
FIELDS = ("format", "version", "arrays", "encoder", "decoder", "head", "target_norm", "pixels", "notes")
# `sampling` is absent in exports of before it and of weights that do not record it, `reconstructs` where it is True, `crop` where it is None.
OPTIONAL_FIELDS = ("sampling", "reconstructs", "crop")


def to_json(pretrained: Pretrained, arrays: str) -> dict:
    """Describes weights as JSON; `arrays` is the name of the file that holds them. Raises: ValueError, see `block_encoder_of`."""
    modules = {"encoder": pretrained.block_encoder, "decoder": pretrained.decoder, "head": pretrained.head}
    description = {
        "format": FORMAT,
        "version": __version__,
        "arrays": arrays,
        **{name: _plain(module) for name, module in modules.items()},
        "target_norm": pretrained.target_norm,
        "pixels": {name: list(map(float, values)) for name, values in pretrained.normalization.items()},
        "notes": [without_paths(note) for note in pretrained.notes],
    }
    sampling = {} if pretrained.sampling is None else {"sampling": _plain(pretrained.sampling)}
    crop = {} if pretrained.crop is None else {"crop": list(pretrained.crop)}
    return description | sampling | ({} if pretrained.reconstructs else {"reconstructs": False}) | crop


def _plain(value):
    """Returns a module, or a field of one, as JSON."""
    if type(value) in STORED:
        defaults = {field.name: field.default for field in dataclasses.fields(value)}
        names = [name for name in OPTIONAL.get(type(value), ()) if getattr(value, name) != defaults[name]]
        backbone = next((name for name, kind in ENCODERS.items() if isinstance(value, kind)), None)
        return ({"backbone": backbone} if backbone else {}) | {
            name: _plain(getattr(value, name)) for name in (*STORED[type(value)], *names)
        }
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
    fields, problems = parse_fields(description, arrays)
    if problems:
        raise WeightsError(str(file), problems)
    return fields


def parse_fields(description: dict, arrays: tuple[str, ...]) -> tuple[dict, list[str]]:
    """Returns the fields of `from_json`, and the problems of a description, one a line."""
    problems: list[str] = []
    _check_names("", description, FIELDS, problems, OPTIONAL_FIELDS)
    names = (name for name in (*FIELDS, *OPTIONAL_FIELDS) if name not in ("format", "version"))
    fields = {name: description.get(name) for name in names}
    for name, module_class in MODULES.items():
        if name == "encoder":
            fields[name] = _encoder(fields[name], problems)
        elif fields[name] is not None:
            fields[name] = _module(module_class, fields[name], name, problems)
    fields["normalization"] = _normalization(fields.pop("pixels"), problems)
    fields["reconstructs"] = _value(bool, description.get("reconstructs", True), "reconstructs", problems)
    fields["crop"] = _crop(fields["crop"], problems)
    fields["notes"] = _value(tuple, fields["notes"], "notes", problems)
    _check_choice("arrays", fields["arrays"], arrays, problems)
    _check_choice("target_norm", fields["target_norm"], ("", *TARGET_NORMS), problems)
    head = fields["head"]
    if head is not None and head.names and len(head.names) != head.classes:
        problems.append(f"head.names has {len(head.names)} names; head.classes is {head.classes}")
    return fields, problems


def sampling_to_json(sampling: FrameSampling) -> dict:
    """Returns a sampling as JSON; see `parse_sampling`."""
    return _plain(sampling)


def parse_sampling(value, field: str, problems: list[str]) -> FrameSampling | None:
    """Makes a sampling from JSON; None if that cannot be. field: its place in the file, for what it appends to `problems`."""
    return _module(FrameSampling, value, field, problems)


def _encoder(value, problems: list[str]):
    """Makes the encoder from JSON; None if that cannot be. Appends to `problems`."""
    if not isinstance(value, dict) or "backbone" not in value:
        return _module(Encoder, value, "encoder", problems)
    fields = dict(value)
    backbone = fields.pop("backbone")
    _check_choice("encoder.backbone", backbone, tuple(ENCODERS), problems)
    return _module(ENCODERS.get(backbone if isinstance(backbone, str) else "", Encoder), fields, "encoder", problems)


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
        least = 0 if name in ("target_frames", "blocks") else 1
        if not is_number or not isinstance(value, int) or value < least:
            problems.append(f"{field} is {value!r}; expected a whole number of at least {least}")
        elif value > LARGEST:
            problems.append(f"{field} is {value!r}; expected a whole number of at most {LARGEST}")
    elif value_type is float:
        if not is_number or value < 0 or (value == 0 and name != "fps"):
            problems.append(f"{field} is {value!r}; expected a number {'of at least' if name == 'fps' else 'above'} 0")
        elif value > LARGEST:
            problems.append(f"{field} is {value!r}; expected a number of at most {LARGEST}")
    elif not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        problems.append(f"{field} is {value!r}; expected a list of texts")
    else:
        return tuple(value)
    return value


def _crop(value, problems: list[str]) -> tuple[int, int] | None:
    """Returns the height and width of the field `crop`; None without. Appends to `problems`."""
    is_size = isinstance(value, list) and len(value) == 2 and all(type(side) is int and 1 <= side <= LARGEST for side in value)
    if value is None or is_size:
        return (value[0], value[1]) if value else None
    problems.append(f"crop is {value!r}; expected [height, width] in pixels, each at most {LARGEST}")
    return None


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
