"""Sources from outside the package, `cvmae.run(config, workdir, source=...)`: the check that they follow the protocol."""

import pickle
from collections.abc import Mapping

import numpy as np

from cvmae.data.labels import label_sets_of
from cvmae.data.records import Record, Source
from cvmae.storage.cache import RemoteFile

MEMBERS = ("__len__", "__getitem__", "class_names", "labels", "identity", "key")


class SourceError(ValueError):
    """A source does not follow the protocol `records.Source`; the message names what is wrong and what is expected."""


def by_split(source: Source | Mapping[str, Source], split: str) -> dict[str, Source]:
    """Returns checked sources by the name of their split.

    Args:
      source: one source, which is that of the split `split`, or a source for every split that the task reads.
      split: the value of config.data.split.

    Raises:
      SourceError: a source does not follow the protocol.
    """
    sources = dict(source) if isinstance(source, Mapping) else {split.partition("[")[0]: source}
    for name, one in sources.items():
        check_source(one, f"source[{name!r}]" if isinstance(source, Mapping) else "source")
    return sources


def find_split(custom: Mapping[str, Source] | None, split: str, multi_label: bool = False) -> Source:
    """Returns the source of a split.

    Args:
      custom: sources by split.
      split: its name.
      multi_label: True where clips have several labels.

    Raises:
      SourceError: the split has no source, or its labels are of the other form.
    """
    if custom is None:
        raise SourceError("data.source=custom is set by cvmae.run(config, workdir, source=...), and no source is here: call that")
    if split not in custom:
        raise SourceError(
            f"split {split!r} has no source; there is one for {', '.join(map(repr, custom)) or 'no split'}: give "
            f"cvmae.run(..., source={{{split!r}: ..., ...}}), a source for every split that the task reads"
        )
    has_sets = label_sets_of(custom[split]) is not None
    if has_sets != multi_label:
        remedy = "label_sets, bool [S, C]" if multi_label else "no label_sets, or set config.data.multi_label=True"
        raise SourceError(f"the source of split {split!r} with config.data.multi_label={multi_label}: give it {remedy}")
    return custom[split]


def check_source(source, name: str) -> None:
    """Checks that an object follows the protocol `records.Source`, as far as its first record and its labels show it.

    Args:
      source: the object; its record 0 is read.
      name: of the object, for messages.

    Raises:
      SourceError: something is missing or of another type.
    """
    kind = type(source).__name__
    for member in MEMBERS:
        if not hasattr(source, member):
            raise SourceError(f"{name} ({kind}) lacks {member}; a source needs {', '.join(MEMBERS)}: see cvmae.Source")
    count, labels = len(source), source.labels
    if not count:
        raise SourceError(f"{name} ({kind}) holds no records: give at least one")
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int32 or labels.shape != (count,):
        shown = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise SourceError(f"{name}.labels is {shown}: give a numpy array int32 [{count}], -1 for an unlabeled record")
    names = source.class_names
    if not isinstance(names, tuple) or (names and label_sets_of(source) is None and labels.max() >= len(names)):
        raise SourceError(f"{name}.class_names is {str(names)[:60]}: give a tuple with a name for every label, or ()")
    for member, value in (("identity", source.identity), ("key(0)", source.key(0))):
        if not isinstance(value, str) or not value:
            raise SourceError(f"{name}.{member} is {str(value)[:60]!r}: give a text that is not empty")
    _check_record(source[0], int(labels[0]), f"{name}[0]")
    try:
        pickle.dumps(source)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{name} ({kind}) cannot be pickled for the processes that read videos ({reason}): open files in __getitem__, and define the "
            "class in a module"
        ) from error


def _check_record(record, label: int, name: str) -> None:
    if not isinstance(record, Record):
        raise SourceError(f"{name} is of type {type(record).__name__}: give a cvmae.Record")
    payload = record.payload
    is_frames = isinstance(payload, np.ndarray) and payload.dtype == np.uint8 and payload.ndim == 4 and payload.shape[3] == 3
    if not is_frames and not (isinstance(payload, str | bytes | RemoteFile) and payload):
        shown = (
            f"{payload.dtype}{list(payload.shape)}" if isinstance(payload, np.ndarray) else f"of type {type(payload).__name__}"
        )
        raise SourceError(f"{name}.payload is {shown}: give a path, the bytes of a video file, or frames uint8 [n, H, W, 3]")
    if record.label != label:
        raise SourceError(f"{name}.label is {record.label!r}, labels[0] is {label}: both have to be the same")
