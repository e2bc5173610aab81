"""Reads what stands beside the weights of a folder of Hugging Face transformers: config.json, and the image processor's file."""

import pathlib

from cvmae.interop.description import parse_sampling, sampling_to_json
from cvmae.interop.huggingface_models import ACTIVATIONS, MODELS, STACKS, HuggingFaceModel
from cvmae.interop.json_fields import Fields, is_number, read_json, short
from cvmae.interop.key_maps.common import UNIT_RANGE
from cvmae.interop.pretrained import FrameSampling, Normalization, WeightsError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Where the normalization of clips stands, the first of them that is there: {file: sections in it, none for the file itself}. A whole
# processor of transformers 5 (`SiglipProcessor`, ...) has its parts as sections of one file, which transformers too reads before the others.
_PROCESSORS: dict[str, tuple[str, ...]] = {
    "processor_config.json": ("video_processor", "image_processor"),
    PROCESSOR: ("",),
    "video_preprocessor_config.json": ("",),
}
# A field of config.json that exports of this package have: what transformers, which passes it over, has no fields for.
OWN = "cvmae"
BESIDE = (CONFIG, *_PROCESSORS)


def read_config(folder: pathlib.Path, kind: str) -> dict:
    """Reads config.json in the names that `infer_modules` takes; empty if there is no such file.

    Fields that are absent have the defaults of the model's config class. The names of classes are under `id2label` as
    they are in the file, for `class_names`; the names in config.json of those that are absent are under `absent`.

    Raises:
      WeightsError: it is not JSON, not of a model of this kind, or fields have impossible values; all are listed.
    """
    file = folder / CONFIG
    config = read_json(file)
    if config is None:
        return {}
    model_type = config.get("model_type")
    known = [name for name, model in MODELS.items() if model.kind == kind]
    model = MODELS[model_type if model_type in known else known[0]]
    section = config.get(model.section, {}) if model.section else config
    if not isinstance(section, dict):
        raise WeightsError(str(file), [f"{model.section} is {short(section)}; expected an object: correct it"])
    activation = section.get("hidden_act", model.activation)
    mlp = next((name for name, spellings in ACTIVATIONS.items() if activation in spellings), None)
    if model_type not in known or mlp is None:
        spellings = [name for names in ACTIVATIONS.values() for name in names]
        wanted, activations = (" or ".join(map(repr, names)) for names in (known, spellings))
        problem = f"model_type is {short(model_type)} and hidden_act {short(activation)}, not {wanted} and {activations}"
        raise WeightsError(str(file), [problem])
    fields = Fields(section)
    values = _read_fields(fields, model, mlp) | {"sampling": _read_sampling(config, fields.problems), "absent": fields.absent}
    if fields.problems:
        raise WeightsError(str(file), fields.problems)
    return values


def _read_fields(fields: Fields, model: HuggingFaceModel, mlp: str) -> dict:
    """Returns the fields of a model's config; those that cannot be are listed in `fields.problems`."""
    if fields.whole(model.channels, 3) != 3:
        fields.problems.append(
            f"{model.channels} is {fields.config[model.channels]!r}; this package's models take 3, RGB: give other weights"
        )
    values: dict = {name: fields.whole(field, model.defaults[name]) for name, field in STACKS if name in model.defaults}
    values |= {"eps": fields.eps(model.eps), "mlp": mlp}
    return values | model.read(fields, values)


def own_fields(sampling: FrameSampling | None) -> dict:
    """Returns the fields of config.json that `read_config` reads and transformers does not; empty if there is nothing to record."""
    return {} if sampling is None else {OWN: {"sampling": sampling_to_json(sampling)}}


def _read_sampling(config: dict, problems: list[str]) -> FrameSampling | None:
    """Returns the sampling that an export recorded, None without; appends to `problems`."""
    own = config.get(OWN, {})
    if not isinstance(own, dict):
        problems.append(f"{OWN} is {short(own)}; expected an object: correct it, or remove it")
        return None
    return parse_sampling(own["sampling"], f"{OWN}.sampling", problems) if "sampling" in own else None


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
        problem = f"is {short(id2label)}"
    elif bad := [
        name for name in id2label if not (name.isascii() and name.isdigit() and len(name) < 10 and str(int(name)) == name)
    ]:
        problem = f"has the key {short(bad[0])}, which is no id"
    elif bad := [name for name, text in id2label.items() if not isinstance(text, str)]:
        problem = f"names class {bad[0]} {short(id2label[bad[0]])}, which is no text"
    elif len(id2label) != classes:
        problem = f"has {len(id2label)} names for {classes} classes"
    elif left := sorted(set(range(classes)) - set(map(int, id2label))):
        problem = f"has no name for class {left[0]}, and one for class {max(map(int, id2label))}"
    else:
        return tuple(id2label[str(i)] for i in range(classes)), []
    return (), [f"{CONFIG}: id2label {problem}; {expected}: {remedy}"]


def repeated_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns a note if classes have one name, as two of published ImageNet models have: they stay two classes."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name, []).append(number)
    twice = [f"{name!r} ({', '.join(map(str, of_name))})" for name, of_name in numbers.items() if len(of_name) > 1]
    if not twice:
        return ()
    return (f"{CONFIG}: id2label has one name for several classes, {'; '.join(twice[:3])}: they stay apart, by their numbers",)


def read_crop(folder: pathlib.Path) -> tuple[int, int] | None:
    """Reads (height, width) of the frames that the image processor makes, by cutting or resizing; None if no file says both.

    Raises:
      WeightsError: the file is not JSON, or its values are of another type or out of range.
    """
    for name, section in _places():
        fields = _processor_fields(folder / name, section)
        crop = None
        if fields.config.get("do_center_crop", "crop_size" in fields.config):
            crop = fields.processed_sides("crop_size")
        elif fields.flag("do_resize", True):
            crop = fields.processed_sides("size")
        if fields.problems:
            raise WeightsError(str(folder / name), _in_section(section, fields.problems))
        if crop:
            return crop
    return None


def _places() -> list[tuple[str, str]]:
    """Returns the file and the section of every processor that may be there, in the order in which they count."""
    return [(name, section) for name, sections in _PROCESSORS.items() for section in sections]


def _in_section(section: str, problems: list[str]) -> list[str]:
    return [f"{section}.{problem}" if section else problem for problem in problems]


def read_normalization(folder: pathlib.Path) -> Normalization:
    """Reads `mean` and `std` of the image processor, of pixels in 0..1; empty if no file holds them.

    They do what the processor's `do_rescale`, `rescale_factor` and `do_normalize` do to pixels in 0..255.

    Raises:
      WeightsError: the file is not JSON, or its values are of another type or out of range.
    """
    for name, section in _places():
        fields = _processor_fields(folder / name, section)
        problems, scale = fields.problems, _scale(fields)
        if not fields.flag("do_normalize", True):
            mean, std = list(UNIT_RANGE["mean"]), list(UNIT_RANGE["std"])
        elif "image_mean" in fields.config and "image_std" in fields.config:
            mean, std = (_by_channel(fields.config[field]) for field in ("image_mean", "image_std"))
            problems += _channel_problems(mean, std)
        else:
            mean = std = []
            if scale != 1:
                rescaled = f"do_rescale and rescale_factor multiply pixels by {scale / 255:.6g}, not 1/255"
                problems.append(f"{rescaled}, without image_mean and image_std: add these")
        if problems:
            raise WeightsError(str(folder / name), _in_section(section, problems))
        if mean:
            return {"mean": tuple(value / scale for value in mean), "std": tuple(value / scale for value in std)}
    return {}


def _processor_fields(file: pathlib.Path, section: str) -> Fields:
    """Returns the fields of a processor, none if there is no such file or section. Raises: WeightsError, they are no JSON object."""
    config = read_json(file) or {}
    if not section:
        return Fields(config)
    if not isinstance(value := config.get(section, {}), dict):
        raise WeightsError(str(file), [f"{section} is {short(value)}; expected an object: correct it"])
    return Fields(value)


def _by_channel(value):
    """Returns a number as that of each channel, as transformers' processors take it; anything else as it is."""
    return [value] * 3 if is_number(value) else value


def _scale(fields: Fields) -> float:
    """Returns the number that pixels in 0..1 are multiplied with before mean and std; exactly 1 for the usual factor of 1/255."""
    factor = fields.number("rescale_factor", 1 / 255)
    scale = 255 * factor if fields.flag("do_rescale", True) else 255.0
    return 1.0 if abs(scale - 1) < 1e-6 else scale  # factors that are written with fewer digits


def _channel_problems(mean, std) -> list[str]:
    """Returns problems of mean and standard deviation, which are three numbers each, one a line."""
    return [
        f"{field} is {short(values)}; expected three numbers{above}, of R, G and B, or one for all: correct it, or remove it if it is unknown"
        for field, values, above in (("image_mean", mean, ""), ("image_std", std, " above 0"))
        if not (isinstance(values, list) and len(values) == 3 and all(map(is_number, values)) and (not above or min(values) > 0))
    ]
