"""Mixtures of sources, `data.mixture`: their names and weights, their sections of the config, and the source of all their records."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

import ml_collections
import numpy as np

from cvmae.config import flatten, nearest
from cvmae.data.manifest import UNLABELED
from cvmae.data.records import Record, Source

FORM = "names and weights such as 'ssv2:1.0,k400:2.0'"
# The field of config.data that says which clips a kind of source has; the others are rendered, or come from outside.
ADDRESSES = {"files": "manifest", "tfds": "tfds.name", "webdataset": "webdataset.shards", "hf": "hf.path"}
# What a section may change: what its source is, and how clips are sampled from it, by the name of the field of `clips.ClipSpec`.
SOURCE_FIELDS = (
    "name",
    "source",
    "manifest",
    "root",
    "multi_label",
    "pictures",
    "split",
    "eval_split",
    "tfds",
    "motion",
    "synthetic",
    "webdataset",
    "hf",
)
SAMPLING_FIELDS = {
    "stride": "stride",
    "fps": "fps",
    "fit": "fit",
    "clip_sampling": "sampling",
    "square_pixels": "square_pixels",
}
_PROPORTIONS = r"\w+:\d+(/\d+)?(,\w+:\d+(/\d+)?)*"  # see `Mixture.proportions`
EQUAL_FIELDS = ("num_frames", "frame_size")  # a batch holds clips of one shape


class MixtureError(ValueError):
    """A mixture cannot be used; the message names the field and the fix."""


def parse_mixture(text: str) -> dict[str, Fraction]:
    """Returns the weights of a mixture by the name of the source, in the order of the text; {} for an empty text.

    Weights are exact: 0.1 is a tenth, and 1/3 may be written.

    Raises:
      MixtureError: the text has another form, a weight is not positive, or a name is there twice.
    """
    weights: dict[str, Fraction] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (word.strip() for word in part.partition(":"))
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise MixtureError(f"data.mixture={text!r}: {part!r} is no name with a weight; give {FORM}")
        try:
            weight = Fraction(number)
        except (ValueError, ZeroDivisionError):
            raise MixtureError(f"data.mixture={text!r}: {number!r} is no weight of {name}; give {FORM}") from None
        if weight <= 0:
            raise MixtureError(f"data.mixture={text!r}: the weight of {name} is {number}, not above 0; leave {name} out")
        if name in weights:
            raise MixtureError(f"data.mixture={text!r} has {name} twice; add its weights")
        weights[name] = weight
    return weights


def mixture_names(data) -> tuple[str, ...]:
    """Returns the names of the sources of config.data.mixture; () without a mixture. Raises: MixtureError."""
    return tuple(parse_mixture(data.get("mixture", "")))  # configs of earlier versions lack the field


def sections(data) -> dict[str, ml_collections.ConfigDict]:
    """Returns config.data as each source of the mixture has it: with the fields that its section changes.

    The manifest and its root are those of the section where it has another kind of source than config.data, and its data set is the one
    that it is called, unless it says another.

    Args:
      data: config.data; fields of `data.sources.NAME` that are None are not changed.

    Raises:
      MixtureError: a name without a section or a section without a name, or a field that a section cannot change.
    """
    names, own = mixture_names(data), data.get("sources", {})
    for name in names:
        if name not in own:
            known = nearest(name, own) if own else "there is no section"
            raise MixtureError(f"data.mixture={data.mixture!r}: {name!r} has no section data.sources.{name}; {known}")
    for name in own:
        if name not in names:
            raise MixtureError(
                f"data.sources.{name} is not in data.mixture={data.get('mixture', '')!r}: add {name}:WEIGHT there, or remove the section"
            )
    return {name: _merge(data, name, own[name]) for name in names}


def source_kinds(data) -> set[str]:
    """Returns the kinds of the sources of config.data, values of data.source: its own, or those of its mixture. Raises: MixtureError."""
    return {section.source for section in sections(data).values()} or {data.source}


def _merge(data, name, section) -> ml_collections.ConfigDict:
    changed = {field: value for field, value in flatten(section).items() if value is not None}
    for field, value in changed.items():
        _check_field(data, name, field, value)
    merged = data.copy_and_resolve_references()
    with merged.unlocked():
        merged.mixture, merged.sources, merged.name = "", ml_collections.ConfigDict(), name
        if changed.get("source", data.source) != data.source:
            merged.manifest, merged.root = "", ""
        merged.update_from_flattened_dict(changed)
    return merged


def _check_field(data, name, field, value):
    top = field.partition(".")[0]
    known = (*SOURCE_FIELDS, *SAMPLING_FIELDS)
    if top in EQUAL_FIELDS:
        if value != data[top]:
            raise MixtureError(
                f"data.sources.{name}.{field}={value} differs from data.{field}={data[top]}: a batch holds clips of one shape; "
                f"set data.{field} for all sources"
            )
    elif top in data and top not in known:
        raise MixtureError(f"data.sources.{name}.{field} is a field of all sources together: set data.{field}")
    elif field not in flatten(data):
        raise MixtureError(f"data.sources.{name}.{field} is no field of a source: {nearest(field, known)}")


def open_mixture(data, split: str, open_source: Callable[..., Source]) -> "Mixture":
    """Opens all sources of config.data.mixture.

    Args:
      data: config.data.
      split: the value of data.split or data.eval_split; a section may have another one in that field.
      open_source: opens a source of (data, split).

    Raises:
      MixtureError: see `sections`; and the errors of `open_source`, with the name of the source.
    """
    field = next((field for field in ("split", "eval_split") if data.get(field) == split), None)
    opened, sampling = {}, []
    for name, section in sections(data).items():
        try:
            opened[name] = open_source(section, section[field] if field else split)
        except (ValueError, FileNotFoundError) as error:
            raise MixtureError(f"data.sources.{name}: {_of_section(str(error), name)}") from error
        if not len(opened[name]):
            raise MixtureError(f"data.sources.{name} holds no records: leave it out of data.mixture")
        sampling.append({spec: section[field] for field, spec in SAMPLING_FIELDS.items() if field in section})
    return Mixture(opened, parse_mixture(data.mixture), tuple(sampling))


def _of_section(message: str, name: str) -> str:
    """Returns a message about fields of config.data with those of a section in their place, which are the ones to set."""
    fields = "|".join((*SOURCE_FIELDS, *SAMPLING_FIELDS))
    return re.sub(rf"(?<![\w/.-])((?:--)?config\.)?data\.({fields})\b", rf"\1data.sources.{name}.\2", message)


class Mixture:
    """Source of the records of several sources, one after the other; `proportions` has the order in which they are drawn.

    Class numbers of several sources mean different classes, so all records are unlabeled.

    Args:
      sources: by name.
      weights: of each name.
      sampling: of each source, changes of the fields of `clips.ClipSpec`.
    """

    class_names: tuple[str, ...] = ()
    label_sets = None

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, Fraction], sampling: tuple[dict, ...]):
        self.names, self.weights, self.sampling = tuple(sources), dict(weights), sampling
        self._sources = tuple(sources.values())
        self._bounds = np.cumsum([0, *map(len, self._sources)])
        self.notes = tuple(f"{name}: {note}" for name, source in sources.items() for note in getattr(source, "notes", ()))

    def __len__(self):
        return int(self._bounds[-1])

    @property
    def labels(self) -> np.ndarray:
        return np.full(len(self), UNLABELED, np.int32)

    def part_of(self, index: int) -> int:
        """Returns the number of the source of a record."""
        return int(np.searchsorted(self._bounds, index, side="right")) - 1

    def range_of(self, part: int) -> tuple[int, int]:
        """Returns the first record of source number `part`, and the one after its last."""
        return int(self._bounds[part]), int(self._bounds[part + 1])

    def _find(self, index):
        part = self.part_of(index)
        return part, int(index) - int(self._bounds[part])

    def __getitem__(self, index) -> Record:
        part, number = self._find(index)
        return dataclasses.replace(self._sources[part][number], label=UNLABELED)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, in the order of `names`."""
        return self._sources

    def key(self, index):
        part, number = self._find(index)
        return f"{self.names[part]}/{self._sources[part].key(number)}"

    def parts(self):
        """Returns (file, start, end) of every record; a record without a file of its own has its key."""
        rows = []
        for name, source in zip(self.names, self._sources, strict=True):
            own = getattr(source, "parts", list)()
            rows += own or [(f"{name}/{source.key(number)}", None, None) for number in range(len(source))]
        return rows

    @property
    def proportions(self) -> str:
        """The names with their shares, which sum to 1, as exact fractions: `ssv2:1/3,k400:2/3`."""
        total = sum(self.weights.values())
        return ",".join(f"{name}:{weight / total}" for name, weight in self.weights.items())

    @property
    def identity(self) -> str:
        return f"{self.proportions} of {' | '.join(source.identity for source in self._sources)}"


def without_weights(identity: str) -> str:
    """Returns the identity of a source without the weights of a mixture, which say nothing to who reads each record once."""
    head, of, sources = identity.partition(" of ")
    return re.sub(r":\d+(/\d+)?", "", head) + of + sources if re.fullmatch(_PROPORTIONS, head) else identity


def part_range(source: Source, index: int) -> tuple[int, int]:
    """Returns the first record, and the one after the last, of those that may take the place of record `index` in training.

    In a mixture they are of the same source, so that proportions stay exact.
    """
    return source.range_of(source.part_of(index)) if isinstance(source, Mixture) else (0, len(source))
