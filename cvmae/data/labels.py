"""Class numbers of the labels of a manifest, by name or by number."""

import collections
import hashlib
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from cvmae.data.label_texts import CLASSES, EMPTY, MISSING, NONE_OF_THEM, TO_LEARN_NONE, UNLABELED, LabelError, check_texts
from cvmae.data.lines import WHOLE_NUMBER

# Numbers above this have to be dense: numbers of which nine tenths never occur are identifiers or years, not classes. Below it they
# may be a few clips of a large set, and a note says so.
_SPARSE_FROM, _LEAST_USED = 1000, 0.1
_WORDS = frozenset(filter(str.isalpha, EMPTY))
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_MEANS_NONE = "means no label"


def number_labels(
    labels: dict[str, str], names: tuple[str, ...], classes: str, multi_label: bool = False
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Numbers the labels of a manifest.

    A label that `classes` lists is that class, whatever its text. Of the others, the texts in MISSING, in any case, are no
    label, and texts that are several labels are refused. If most of the rest are numbers, all have to be class numbers, 0 to C - 1;
    otherwise all are names. Texts are compared in the normal form NFC of Unicode, see `split_label`.

    Args:
      labels: distinct texts of all splits, stripped, with the place of the first row that has it, "file:line".
      names: of the classes that the classes.csv lists, see `read_classes`; () without one.
      classes: its path, for messages.
      multi_label: True if `labels` are the parts of lists separated by `;`, for the remedy of the message.

    Returns:
      The class names, () if classes have only numbers; and {label: class number}, without the labels that are missing.

    Raises:
      LabelError: a label is refused.
    """
    listed = set(names)
    labels = {label: where for label, where in labels.items() if label in listed or label.lower() not in MISSING}
    if NONE_OF_THEM in labels.keys() - listed:
        raise LabelError(
            f"{labels[NONE_OF_THEM]}: label {NONE_OF_THEM!r} means something where clips have several labels: {TO_LEARN_NONE}"
        )
    check_texts(labels, listed, multi_label)
    unlisted = [label for label in labels if label not in listed]
    numeric = [label for label in unlisted if _is_number(label)]
    if unlisted and 2 * len(numeric) > len(unlisted):
        return names, _numbers(labels, names, classes)
    if names and unlisted:
        label = min(unlisted)
        raise LabelError(_unlisted(classes, label, "add it, or remove the file", labels[label]))
    names = names or tuple(sorted(labels))
    _check_twice(names, labels)
    return names, {name: number for number, name in enumerate(names)}


def number_label_sets(rows: Sequence[frozenset[int] | None]) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
    """Numbers sets of labels, so that a clip with several labels needs one number.

    Args:
      rows: the class numbers of every row of a manifest, an empty set for none of the classes; None for no label.

    Returns:
      The distinct sets, each as ascending class numbers, in sorted order, which does not depend on the order of the rows; and
      for every row the index of its set among them, or UNLABELED.
    """
    sets = tuple(sorted({tuple(sorted(row)) for row in rows if row is not None}))
    index = {frozenset(numbers): row for row, numbers in enumerate(sets)}
    return sets, [UNLABELED if row is None else index[row] for row in rows]


def label_notes(unread: list[str], names: Sequence[str], labels: Mapping[str, int], texts: Iterable[str]) -> list[str]:
    """Returns lines about labels, and about a classes.csv, that may not be meant as they are read.

    Args:
      unread: of `read_classes`; told where there are labels.
      names: of the classes, () where these have only numbers.
      labels: {text: class number} of the labels that are there, see `number_labels`.
      texts: the labels of all rows.
    """
    return [*(unread if labels else []), *_number_notes(names, labels), *_missing_notes(texts, labels)]


def _number_notes(names, labels):
    """Returns lines about class names that look alike, and about numbers that may be no class numbers."""
    notes, twins = [], collections.defaultdict(list)
    for name in names:
        twins[_fold(name.strip(_QUOTES))].append(name)
    for group in twins.values():
        if len(group) > 1:
            what = "case or spaces" if len(set(map(_fold, group))) == 1 else "quotes, case or spaces"
            classes = " and ".join(repr(name[:40]) for name in group)
            notes.append(f"{len(group)} classes differ only in {what}, {classes}; write them alike if they are one")
    numbers = [label for label in labels if label in names and _is_number(label) and label.lower() not in MISSING]
    numbers = [label for label in numbers if math.isfinite(float(label))]  # not the words inf and infinity
    if 0 < len(numbers) < len(names) and len(labels) > len(numbers):
        shown = ", ".join(numbers[:3])
        notes.append(
            f"labels are numbers ({shown}) and names; most are names, so all are taken as names, numbered in their order in {CLASSES} or, "
            "without one, sorted"
        )
    wide = [name for name in names if not name.isascii() and unicodedata.normalize("NFKC", name).isdecimal()]
    if wide:
        notes.append(f"labels such as {wide[0]!r} are numbers in other characters than 0 to 9, so they are taken as names")
    moved = [label for label in labels if label in names and WHOLE_NUMBER.fullmatch(label) and float(label) != labels[label]]
    if moved and all(map(_is_number, names)):
        notes.append(
            f"labels are names that {CLASSES} lists, also where these are numbers: label {moved[0]} is class {labels[moved[0]]}, "
            f"and so {len(moved):,} have another number than their name"
        )
    used = set(labels.values())
    if not names and used and 0 not in used:
        notes.append(
            f"no label is 0, the lowest is {min(used)}: classes are numbered from 0; subtract 1 if these are numbered from 1"
        )
    if not names and used and _are_sparse(used):
        notes.append(
            f"there are {max(used) + 1:,} classes, 0 to {max(used)}, and labels of only {len(used):,}: if there are no others, number "
            f"them 0 to {len(used) - 1}"
        )
    return notes


def _missing_notes(texts, numbers):
    """Returns a line about the words among names that mean no label and may be meant as a class, such as `none` and `na`.

    If the labels are numbers, no word is meant as a class.
    """
    if all(map(_is_number, numbers)):
        return []
    clips = collections.Counter(text for text in texts if text.lower() in _WORDS and text not in numbers)
    if not clips:
        return []
    shown = [f"{text!r}" + (f" ({count:,})" if len(clips) > 1 else "") for text, count in clips.most_common()]
    words = " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
    return [
        f"the label {words} of {clips.total():,} rows {_MEANS_NONE}; a class of this name needs another one, or a {CLASSES} that lists it"
    ]


def one_label_note(labels: Iterable[str]) -> str:
    """Returns a line about videos that may have several labels, and of which each has one."""
    marked = next((label for label in labels if re.search(r"[,|/+&]", label)), "")
    example = f": {marked[:40]!r} is one class" if marked else ""
    return f"data.multi_label=True, but no row has several labels, which are separated by ;{example}"


def missing_hint(source) -> str:
    """Returns what `missing_notes` says of a source, to follow an error about clips without a label; "" for nothing."""
    return "".join(f"; {note}" for note in getattr(source, "notes", ()) if _MEANS_NONE in note)


def _fold(name: str) -> str:
    """Returns a name without case, compatibility forms, characters that do not show, and runs of spaces."""
    shown = "".join(character for character in unicodedata.normalize("NFKC", name) if unicodedata.category(character) != "Cf")
    return " ".join(shown.casefold().split())


def label_sets_of(source):
    """Returns the table of label sets of a source, bool [S, C]; None where a video has one label, see `sources.Source`."""
    return getattr(source, "label_sets", None)


def digest_labels(source) -> str:
    """Returns a hash of the labels of a source and of its label sets, 32 hexadecimal digits."""
    sets = label_sets_of(source)
    # Empty where a video has one label, as in checkpoints of earlier versions.
    table = b"" if sets is None else str(sets.shape).encode() + sets.tobytes()
    return hashlib.blake2b(np.asarray(source.labels).astype("<i4").tobytes() + table, digest_size=16).hexdigest()


def _numbers(labels, names, classes):
    """Returns {label: number} of labels that are class numbers, or names among `names`."""
    numbers = {label: number for number, label in enumerate(names) if label in labels and not _is_number(label)}
    for label, where in labels.items():
        if label in numbers:
            continue
        if not _is_number(label):
            raise LabelError(f"{where}: label {label[:40]!r} is a name, most others are numbers; write all as one or the other")
        if not WHOLE_NUMBER.fullmatch(label):
            raise LabelError(f"{where}: label {label[:40]!r} is no class number; give 0, 1, ... or a name")
        # Beyond 18 digits no number is a class, and some are too long for int().
        digits = label.partition(".")[0]
        numbers[label] = int(digits) if len(digits) <= 18 else 10**18
        if numbers[label] < 0:
            raise LabelError(f"{where}: label {label} is negative; number classes from 0, or leave it empty for no label")
    _check_range({number: label for label, number in numbers.items()}, labels, names, classes)
    return numbers


def _check_range(labels_of, places, names, classes):
    """Raises LabelError where class numbers are not 0 to C - 1. labels_of: {number: label}; places: {label: "file:line"}."""
    highest, used = max(labels_of), len(labels_of)
    label = labels_of[highest]
    counts_from_1 = 0 not in labels_of and 1 in labels_of and highest > 1 and used >= 0.9 * highest
    remedy = "subtract 1, since class numbers start at 0" if counts_from_1 else ""
    if names and highest >= len(names):
        raise LabelError(_unlisted(classes, label, remedy or "add it, or remove the file", places[label]))
    if counts_from_1 and not names:
        raise LabelError(
            f"{places[labels_of[1]]}: labels run from 1 to {label}, none is 0; {remedy}; if class 0 has no video here, say so by "
            f"a {CLASSES}"
        )
    if not names and are_identifiers(labels_of):
        raise LabelError(
            f"{places[label]}: label {label[:40]!r} is no class number, there are only {used} different labels; number the classes "
            f"0 to {used - 1}, or give names"
        )


def are_identifiers(numbers: Collection[int]) -> bool:
    """Returns True for numbers that are no class numbers: above those that may be a few clips of a large set, nine tenths never occur."""
    return max(numbers, default=0) >= _SPARSE_FROM and _are_sparse(numbers)


def _are_sparse(numbers: Collection[int]) -> bool:
    return len(numbers) < _LEAST_USED * (max(numbers) + 1)


def _unlisted(classes, label, remedy, where):
    return f"{classes}: no class {label[:40]!r}, which the manifest has; {remedy} (first at {where})"


def _check_twice(names, places):
    """Raises LabelError for a number that names contain in two spellings, such as 2 and 2.0."""
    spellings: dict[int, str] = {}
    for name in filter(WHOLE_NUMBER.fullmatch, names):
        digits = name.partition(".")[0]
        other = spellings.setdefault(int(digits[:18]), name)
        if other != name and len(digits) <= 18 and name in places:
            raise LabelError(f"{places[name]}: labels {other!r} and {name!r} are one number; write it in one way")


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return label.isascii() and "_" not in label
