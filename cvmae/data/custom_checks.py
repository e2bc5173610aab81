"""Checks of sources from outside the package: their members, their records, and their classes from split to split."""

import dataclasses
import math
import numbers
import operator
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from cvmae.data.label_texts import UNLABELED
from cvmae.data.labels import are_identifiers, label_sets_of
from cvmae.data.lines import counted, has_line_break, one_line
from cvmae.data.records import Record, Source, UnreadableError, part_key
from cvmae.storage.cache import RemoteFile

_CHARACTERS = 60  # of a value in a message
Span = tuple[str, float | None, float | None]
MEMBERS = ("__len__", "__getitem__", "class_names", "labels", "identity", "key")


class SourceError(ValueError):
    """A source does not follow the protocol `records.Source`; the message names what is wrong and what is expected."""


def check_members(source, name: str) -> None:
    """Raises SourceError where an object lacks a member of the protocol `records.Source`, or has one of another type."""
    kind = type(source).__name__
    for member in MEMBERS:
        if not hasattr(source, member):
            raise SourceError(f"{name} ({kind}) lacks {member}; a source needs {', '.join(MEMBERS)}: see cvmae.Source")
    count, labels = _count(source, f"{name} ({kind})"), source.labels
    if not count:
        raise SourceError(f"{name} ({kind}) holds no records: give at least one")
    if not _is_plain(labels) or labels.dtype != np.int32 or labels.shape != (count,):
        raise SourceError(f"{name}.labels is {_shown(labels)}: give a numpy array int32 [{count}], -1 for an unlabeled record")
    if labels.min() < UNLABELED:
        raise SourceError(
            f"{_label_of(source, name, int(labels.argmin()))}: number classes from 0, and give {UNLABELED} for an unlabeled record"
        )
    _check_label_sets(source, name)
    _check_class_names(source, name)
    check_text(source.identity, f"{name}.identity")
    check_text(source.key(0), f"{name}.key(0)")
    notes, stamp = getattr(source, "notes", ()), getattr(source, "stamp", None)
    if not isinstance(notes, tuple | list) or not all(isinstance(note, str) for note in notes):
        raise SourceError(f"{name}.notes is {_shown_value(notes, tuple)}: give a tuple of texts, or leave it out")
    if stamp is not None and not isinstance(stamp(0), str | None):
        raise SourceError(f"{name}.stamp(0) is {_shown_value(stamp(0))}: give a text, or None where it cannot be told")


def check_parts(spans, count: int, name: str) -> list[Span]:
    """Returns the parts of a source, a list of (file, start, end). Raises: SourceError, they have another form, or are not one for each record."""
    expected = f"give a list of (file, start, end), one for each of the {counted(count, 'record')}, or []"
    if not isinstance(spans, list | tuple) or len(spans) not in (0, count):
        shown = counted(len(spans), "part") if isinstance(spans, list | tuple) else _shown_value(spans)
        raise SourceError(f"{name}.parts() is {shown}: {expected}")
    for number, part in enumerate(spans):
        is_part = isinstance(part, tuple | list) and len(part) == 3 and isinstance(part[0], str)
        if not is_part or not all(time is None or isinstance(time, numbers.Real) for time in part[1:]):
            raise SourceError(f"{name}.parts()[{number}] is {_shown_value(part)}: {expected}")
    return [(file, _open_or_seconds(start), _open_or_seconds(end)) for file, start, end in spans]


def _check_class_names(source, name: str) -> None:
    """Raises SourceError where class names are no tuple of texts, each of one class, or a label has none."""
    names, labels = source.class_names, source.labels
    first: dict[str, int] = {}
    if not isinstance(names, tuple):
        raise SourceError(f"{name}.class_names is {_shown_value(names, tuple)}: give a tuple with a name for every label, or ()")
    if names and label_sets_of(source) is None and labels.max() >= len(names):
        raise SourceError(
            f"{_label_of(source, name, int(labels.argmax()))}, and class_names has {counted(len(names), 'name')}, for 0 to {len(names) - 1}: give a "
            "tuple with a name for every label, or ()"
        )
    if not names and label_sets_of(source) is None and are_identifiers(used := np.unique(labels[labels >= 0]).tolist()):
        raise SourceError(
            f"{_label_of(source, name, int(labels.argmax()))}, and there are only {counted(len(used), 'different label')}: number the classes 0 to "
            f"{len(used) - 1}, or give class_names"
        )
    for number, class_name in enumerate(names):
        if not isinstance(class_name, str) or not class_name.strip() or has_line_break(class_name) or not _is_unicode(class_name):
            raise SourceError(
                f"{name}.class_names[{number}] is {_shown_value(class_name)}: give a text of one line that is not empty"
            )
        if (other := first.setdefault(class_name, number)) != number:
            raise SourceError(
                f"{name}.class_names[{other}] and [{number}] are both {_shown_value(class_name)}: give each class a name of its own"
            )


def _label_of(source, name: str, record: int) -> str:
    """Returns the label of a record for a message."""
    return f"{name}.labels[{record}] is {source.labels[record]}, of {_shown_value(source.key(record))}"


def check_text(value, name: str) -> None:
    """Raises SourceError for an identity or a key that is no text, or an empty one, or that files cannot hold."""
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise SourceError(f"{name} is {_shown_value(value)}: give a text that is not empty, of Unicode characters")


def check_picklable(source, name: str) -> None:
    """Raises SourceError for a source that does not reach the processes that read videos."""
    try:
        pickle.dumps(source)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{name} ({type(source).__name__}) cannot be pickled for the processes that read videos ({reason}): open files in "
            "__getitem__, and define the class in a module"
        ) from error


def _check_label_sets(source, name: str) -> None:
    """Raises SourceError where label sets are no table, or the table lacks a row or a column."""
    sets = label_sets_of(source)
    if sets is None:
        return
    is_table = _is_plain(sets) and sets.dtype == np.bool_ and sets.ndim == 2
    width = len(source.class_names) or (sets.shape[1] if is_table else 0)
    if not is_table or sets.shape[1] != width or source.labels.max() >= len(sets):
        shown = _shown(sets)
        raise SourceError(
            f"{name}.label_sets is {shown}: give bool [S, {width or 'C'}], a column for each class and a row for each number in labels, "
            f"0 to {source.labels.max()}"
        )


def check_same_classes(sources: Mapping[str, Source], named: Mapping[str, str]) -> None:
    """Raises SourceError where a class number means one class in a split and another class in the next."""
    with_names = {split: one for split, one in sources.items() if one.class_names}
    nameless = [split for split, one in sources.items() if not one.class_names and one.labels.max() > UNLABELED]
    if with_names and nameless:
        first = next(iter(with_names))
        raise SourceError(
            f"{named[first]}.class_names is {str(sources[first].class_names)[:80]}, {named[nameless[0]]}.class_names is (), and it has labels: a "
            "number has to mean the same class in every split; give all of them one list"
        )
    with_sets = {split: one for split, one in sources.items() if label_sets_of(one) is not None}
    for member, of_splits in (("class_names", with_names), ("label_sets", with_sets)):
        first, *others = of_splits or [""]
        for split in others:
            one, other = (getattr(sources[part], member) for part in (first, split))
            if not np.array_equal(one, other):
                shown = [f"{str(value)[:80]}" if member == "class_names" else _shown(value) for value in (one, other)]
                raise SourceError(
                    f"{named[first]}.{member} is {shown[0]}, {named[split]}.{member} is {shown[1]}: a number has to mean the same class in "
                    "every split; give all of them one list"
                )


def _count(source, name: str) -> int:
    try:
        return len(source)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{name}.__len__ does not return the number of its records ({error}): give an int") from error


def check_record(record, label: int, name: str) -> Record:
    """Returns a record with its times as numbers of Python's.

    Raises: SourceError, it has other types, or another label than `labels` has; UnreadableError, it is empty.
    """
    if not isinstance(record, Record):
        raise SourceError(f"{name} is of type {type(record).__name__}: give a cvmae.Record")
    if not isinstance(record.name, str):
        raise SourceError(f"{name}.name is {_shown_value(record.name)}: give a text")
    name = f"{name}, which is {one_line(record.name)[:60]}: its"
    payload: Any = record.payload
    is_frames = _is_plain(payload) and payload.dtype == np.uint8 and payload.ndim == 4 and payload.shape[3] == 3
    if not is_frames and not isinstance(payload, str | bytes | RemoteFile):
        raise SourceError(
            f"{name} payload is {_shown(payload)}: give a path, the bytes of a video file, or frames uint8 [n, H, W, 3]"
        )
    start, end = _times_of(record, name)
    if not _is_index(record.label) or record.label != label:
        raise SourceError(f"{name} label is {record.label!r}, the one in labels is {label}: both have to be the same number")
    if not (payload.size if isinstance(payload, np.ndarray) else payload):
        raise UnreadableError(record.name, "it is empty")
    return dataclasses.replace(record, start=start, end=end)


def check_name(record: Record, key: str, name: str, key_name: str) -> None:
    """Raises SourceError for the record of another key, as of a source that is off by one, whose features would lie under wrong names.

    Args:
      record: its name has to be the key, or a path that ends with it; where a part of a video is used, the key may name that too.
      key: of the place in the source that was asked for.
      name, key_name: of the record and of the key, for messages.
    """
    names = (record.name, part_key(record.name, record.start, record.end))
    if not any(own == key or own.endswith(f"/{key}") for own in names):
        raise SourceError(
            f"{name} is {one_line(record.name)[:60]!r}, and {key_name} is {one_line(key)[:60]!r}: give the record of this key, with the key as "
            "its name, or a path that ends with it"
        )


def _times_of(record: Record, name: str) -> tuple[float | None, float | None]:
    """Returns the start and the end of a record, as numbers of Python's, which JSON has; NaN is an open end, as in a manifest.

    Raises: SourceError, they are no times; `name` is that of the record, for messages.
    """
    for part in ("start", "end"):
        time = getattr(record, part)
        if time is not None and (isinstance(time, bool) or not isinstance(time, numbers.Real)):
            raise SourceError(f"{name} {part} is {_shown_value(time, float)}: give seconds, or None")
    start, end = _open_or_seconds(record.start), _open_or_seconds(record.end)
    if not 0 <= (start or 0.0) < (math.inf if end is None else end) or end == math.inf:
        raise SourceError(f"{name} start {start} and end {end} are not 0 <= start < end: give seconds, or None for an open end")
    return start, end


def _open_or_seconds(time) -> float | None:
    """Returns a time as a number of Python's; None, an open end, for NaN."""
    return None if time is None or math.isnan(time) else float(time)


def _is_plain(array) -> bool:
    """Returns True for an array of numpy's whose values all count: not for a masked one, whose mask nothing here reads."""
    return isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)


def _shown(array) -> str:
    return f"{array.dtype}{list(array.shape)}" if _is_plain(array) else f"of type {type(array).__name__}"


def _shown_value(value, expected: type = str) -> str:
    """Returns a value for a message, texts in quotes, and with its type where it is not the expected one: `'5'`, and `5 of type int`."""
    text = repr(value[:_CHARACTERS]) if isinstance(value, str) else one_line(str(value))[:_CHARACTERS]
    return text if isinstance(value, expected) else f"{text} of type {type(value).__name__}"


def _is_index(value) -> bool:
    """Returns True for a whole number of any integer type, numpy's among them."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    """Returns True for a text that files can hold, one without halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
