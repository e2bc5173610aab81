"""Reads what stands beside the weights of a folder of Hugging Face transformers: config.json, and the image processor's file."""

import json
import math
import pathlib

from cvmae.interop.pretrained import Normalization, WeightsError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Files that hold the normalization of clips; the second name is that of transformers' newer processors.
_PROCESSORS = (PROCESSOR, "video_preprocessor_config.json")
_KINDS = {"videomae": "hf-videomae", "vit_mae": "hf-vit-mae"}  # by model_type

# (name in `infer_modules`, field of config.json, default of transformers' config class) for an encoder and a decoder.
_STACKS = (
    ("width", "hidden_size", 768),
    ("depth", "num_hidden_layers", 12),
    ("heads", "num_attention_heads", 12),
    ("hidden", "intermediate_size", 3072),
)
_DECODERS = {"videomae": (384, 4, 6, 1536), "vit_mae": (512, 8, 16, 2048)}
MULTI_LABEL = "multi_label_classification"  # problem_type of a classifier that learned each class by itself
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}  # hidden_act of each value of `mlp`
FIXED_EPS = 1e-5  # of decoder.norm and fc_norm, which take no eps from the config
# Fields by their names in `infer_modules`, for messages.
FIELDS = {f"{prefix}{name}": f"{prefix}{field}" for prefix in ("", "decoder_") for name, field, _ in _STACKS}
_LARGEST = 1 << 16  # far above any model; beyond it a damaged number would take all of the memory


def read_config(folder: pathlib.Path, kind: str) -> dict:
    """Reads config.json in the names that `infer_modules` takes; empty if there is no such file.

    Fields that are absent have the defaults of VideoMAEConfig and ViTMAEConfig. The names of classes are under `id2label` as
    they are in the file, for `class_names`.

    Raises:
      WeightsError: it is not JSON, not of a model of this kind, or fields have impossible values; all are listed.
    """
    file = folder / CONFIG
    config = _read_json(file)
    if config is None:
        return {}
    model, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    wanted = next(name for name, known in _KINDS.items() if known == kind)
    mlp = next((name for name, known in ACTIVATIONS.items() if known == activation), None)
    if model != wanted or mlp is None:
        known = " or ".join(map(repr, ACTIVATIONS.values()))
        raise WeightsError(str(file), [f"model_type is {model!r} and hidden_act {activation!r}, not {wanted!r} and {known}"])
    fields = _Fields(config)
    if fields.whole("num_channels", 3) != 3:
        fields.problems.append(
            f"num_channels is {config['num_channels']!r}; this package's models take 3, RGB: give other weights"
        )
    values: dict = {name: fields.whole(field, default) for name, field, default in _STACKS}
    values |= {
        f"decoder_{name}": fields.whole(f"decoder_{field}", default)
        for (name, field, _), default in zip(_STACKS, _DECODERS[wanted], strict=True)
    }
    eps = fields.eps()
    values |= {"size": fields.sides("image_size", 224), "patch": fields.whole("patch_size", 16), "eps": eps, "mlp": mlp}
    values |= (_read_videomae if wanted == "videomae" else _read_vit_mae)(fields, eps)
    if fields.problems:
        raise WeightsError(str(file), fields.problems)
    return values


class _Fields:
    """The fields of config.json, checked as they are read; `problems` lists those of another type or out of range."""

    def __init__(self, config: dict):
        self.config = config
        self.problems: list[str] = []

    def _expect(self, field: str, what: str, default):
        remedy = f"correct it, or remove it if transformers' default ({default!r}) is meant"
        self.problems.append(f"{field} is {_short(self.config[field])}; expected {what}: {remedy}")
        return default

    def whole(self, field: str, default: int) -> int:
        value = self.config.get(field, default)
        return value if _is_whole(value) else self._expect(field, f"a whole number from 1 to {_LARGEST}", default)

    def flag(self, field: str, default: bool) -> bool:
        value = self.config.get(field, default)
        return value if isinstance(value, bool) else self._expect(field, "true or false", default)

    def eps(self) -> float:
        value, default = self.config.get("layer_norm_eps", 1e-12), 1e-12
        return float(value) if is_number(value) and 0 < value < 1 else self._expect("layer_norm_eps", "a number in 0..1", default)

    def sides(self, field: str, default: int) -> tuple[int, int]:
        """Returns (height, width) of a field that is one number or both."""
        value = self.config.get(field, default)
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) == 2 and all(map(_is_whole, sides)):
            return sides[0], sides[1]
        self._expect(field, f"a whole number from 1 to {_LARGEST}, or two for height and width", default)
        return default, default


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def is_number(value) -> bool:
    """Returns True for a finite number of JSON that is no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_videomae(fields: _Fields, eps: float) -> dict:
    mean = fields.flag("use_mean_pooling", True)
    bias = "qv_bias" if "qv_bias" in fields.config else "qkv_bias"  # transformers 4 calls it qkv_bias
    return {
        "num_frames": fields.whole("num_frames", 16),
        "tubelet": fields.whole("tubelet_size", 2),
        "qkv_bias": "qv" if fields.flag(bias, True) else "none",
        "final_norm": not mean,
        "decoder_norm_eps": FIXED_EPS,
        "pool": "mean" if mean else "first",
        "id2label": fields.config.get("id2label"),
        "loss": "sigmoid" if fields.config.get("problem_type") == MULTI_LABEL else "softmax",
        # Without norm_pix_loss it predicts pixels in 0..1, which is not one of `patches.TARGET_NORMS`.
        "target_norm": "patch_channel" if fields.flag("norm_pix_loss", True) else "",
    }


def _read_vit_mae(fields: _Fields, eps: float) -> dict:
    return {
        "num_frames": 1,
        "tubelet": 1,
        "qkv_bias": "qkv" if fields.flag("qkv_bias", True) else "none",
        "final_norm": True,
        "decoder_norm_eps": eps,
        "target_norm": "patch" if fields.flag("norm_pix_loss", False) else "none",
    }


def class_names(id2label, classes: int, key: str) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names of a classifier's classes by id, and problems, one a line; no names where there are problems.

    A config.json that names other classes than the classifier has is of another model, so that its other fields, such as the
    number of heads, which no array shows, cannot be trusted either: it is a problem and not a note.

    Args:
      id2label: the field of config.json, {id: name}; None or empty for none.
      classes: the number of classes of the head.
      key: the array of the file that shows this number, for messages.
    """
    if id2label is None or id2label == {}:
        return (), []
    expected = f"expected a name for each id in 0..{classes - 1}, the classes of {key}"
    remedy = "give the config.json of these weights, or remove id2label to read them without names"
    if not isinstance(id2label, dict):
        problem = f"is {_short(id2label)}"
    elif bad := [
        name for name in id2label if not (name.isascii() and name.isdigit() and len(name) < 10 and str(int(name)) == name)
    ]:
        problem = f"has the key {_short(bad[0])}, which is no id"
    elif bad := [name for name, text in id2label.items() if not isinstance(text, str)]:
        problem = f"names class {bad[0]} {_short(id2label[bad[0]])}, which is no text"
    elif len(id2label) != classes:
        problem = f"has {len(id2label)} names for {classes} classes"
    elif left := sorted(set(range(classes)) - set(map(int, id2label))):
        problem = f"has no name for class {left[0]}, and one for class {max(map(int, id2label))}"
    else:
        return tuple(id2label[str(i)] for i in range(classes)), []
    return (), [f"{CONFIG}: id2label {problem}; {expected}: {remedy}"]


def read_normalization(folder: pathlib.Path) -> Normalization:
    """Reads `mean` and `std` of the image processor; empty if no file holds them.

    Raises:
      WeightsError: the file is not JSON, or its values are not three numbers each.
    """
    for name in _PROCESSORS:
        processor = _read_json(folder / name) or {}
        if "image_mean" not in processor or "image_std" not in processor:
            continue
        mean, std = processor["image_mean"], processor["image_std"]
        problems = [
            f"{field} is {_short(values)}; expected three numbers{above}, of R, G and B: correct it, or remove it if it is unknown"
            for field, values, above in (("image_mean", mean, ""), ("image_std", std, " above 0"))
            if not (
                isinstance(values, list) and len(values) == 3 and all(map(is_number, values)) and (not above or min(values) > 0)
            )
        ]
        if problems:
            raise WeightsError(str(folder / name), problems)
        return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    return {}


def _read_json(file: pathlib.Path) -> dict | None:
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets in brackets
        raise WeightsError(str(file), [f"it is not JSON: {error}"]) from error
    if not isinstance(value, dict):
        raise WeightsError(str(file), ["it is not a JSON object"])
    return value
