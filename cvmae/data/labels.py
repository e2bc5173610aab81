"""Texts of labels in manifests: which of them mean a class, by name or by number, which mean none, and which are refused."""

import csv
import os
import re
from collections.abc import Sequence

CLASSES = "classes.csv"
UNLABELED = -1
# In lower case. Data frames and spreadsheets write an empty cell as one of these; -1 is this package's own word for it.
MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>", "-1", "-1.0"))

# Numbers above this have to be dense: numbers of which nine tenths never occur are identifiers or years, not classes.
_SPARSE_FROM, _LEAST_USED = 1000, 0.1
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
_NUMBERS = r"[+-]?[0-9.]+(?:\s*[,|/]\s*|\s+)[+-]?[0-9.]+(?:(?:\s*[,|/]\s*|\s+)[+-]?[0-9.]+)*"
_QUOTED = r"(?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*,?"
# Labels separated by ; or as lists print: [0, 2], ['run', 'jump'], (0, 2), {0, 2}, 0,2 and 0|2. Names may have commas.
_SEVERAL = re.compile(rf"(?s:.*;.*)|\[[^\[\]]*\]|{_NUMBERS}|[({{]\s*(?:{_NUMBERS}|{_QUOTED})\s*[)}}]")

_ONE, _MORE = "give one class per video", "to learn several, separate them by ; and set --config.data.multi_label=True"


class LabelError(ValueError):
    """A label or a file of class names cannot be used; the message gives the line and a remedy."""


def number_labels(labels: dict[str, str], classes: str, multi_label: bool = False) -> tuple[tuple[str, ...], dict[str, int]]:
    """Numbers the labels of a manifest.

    A label that `classes` lists is that class, whatever its text. Of the others, the texts in MISSING, in any case, are no
    label, and texts that are several labels are refused. If most of the rest are numbers, all have to be class numbers, 0 to C - 1;
    otherwise all are names.

    Args:
      labels: distinct texts of all splits, stripped, with the place of the first row that has it, "file:line".
      classes: path of the classes.csv, which need not exist.
      multi_label: True if `labels` are the parts of lists separated by `;`, for the remedy of the message.

    Returns:
      The class names, () if classes have only numbers; and {label: class number}, without the labels that are missing.

    Raises:
      LabelError: a label is refused, or classes.csv cannot be used.
    """
    names = _class_names(classes)
    listed = set(names)
    labels = {label: where for label, where in labels.items() if label in listed or label.lower() not in MISSING}
    for label, where in labels.items():
        if label not in listed and _SEVERAL.fullmatch(label):
            remedy = (
                f"separate them by ;, or list it in {CLASSES}" if multi_label else f"{_ONE}, or list it in {CLASSES}; {_MORE}"
            )
            raise LabelError(f"{where}: label {label[:40]!r} is several labels; {remedy}")
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


def split_label(where: str, value, multi_label: bool) -> tuple[str, ...]:
    """Returns the texts of the labels of a row, stripped; those that are missing are among them.

    Args:
      where: the place of the row, "file:line".
      value: the field `label`: a text, a number, None, or with JSON lines anything else.
      multi_label: True splits a text at `;`, and takes a list as labels whose texts may contain `;`.

    Raises:
      LabelError: the value is an object, or a list without `multi_label`, or a list of lists or objects.
    """
    values = value if isinstance(value, list) and multi_label else [value]
    if any(isinstance(part, dict) for part in values) or any(isinstance(part, list) for part in values if multi_label):
        raise LabelError(f"{where}: label {str(value)[:40]} is no class; give a class number or a name")
    if isinstance(value, list) and not multi_label:
        raise LabelError(f"{where}: label {str(value)[:40]} is several labels; {_ONE}; {_MORE}")
    if isinstance(value, str) and multi_label:
        values = value.split(";")
    return tuple("" if part is None else str(part).strip() for part in values)


def number_label_sets(rows: Sequence[frozenset[int]]) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
    """Numbers sets of labels, so that a clip with several labels needs one number.

    Args:
      rows: the class numbers of every row of a manifest; empty for no label.

    Returns:
      The distinct sets, each as ascending class numbers, in sorted order, which does not depend on the order of the rows; and
      for every row the index of its set among them, or UNLABELED.
    """
    sets = tuple(sorted({tuple(sorted(row)) for row in rows if row}))
    index = {frozenset(numbers): row for row, numbers in enumerate(sets)}
    return sets, [index.get(row, UNLABELED) for row in rows]


def label_sets_of(source):
    """Returns the table of label sets of a source, bool [S, C]; None where a video has one label, see `sources.Source`."""
    return getattr(source, "label_sets", None)


def _numbers(labels, names, classes):
    """Returns {label: number} of labels that are class numbers, or names among `names`."""
    numbers = {label: number for number, label in enumerate(names) if label in labels and not _is_number(label)}
    for label, where in labels.items():
        if label in numbers:
            continue
        if not _is_number(label):
            raise LabelError(f"{where}: label {label[:40]!r} is a name, most others are numbers; write all as one or the other")
        if not _WHOLE.fullmatch(label):
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
    if not names and highest >= _SPARSE_FROM and used < _LEAST_USED * (highest + 1):
        raise LabelError(
            f"{places[label]}: label {label[:40]!r} is no class number, there are only {used} different labels; number the classes "
            f"0 to {used - 1}, or give names"
        )


def _unlisted(classes, label, remedy, where):
    return f"{classes}: no class {label[:40]!r}, which the manifest has; {remedy} (first at {where})"


def _check_twice(names, places):
    """Raises LabelError for a number that names contain in two spellings, such as 2 and 2.0."""
    spellings: dict[int, str] = {}
    for name in filter(_WHOLE.fullmatch, names):
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


def _class_names(path):
    """Returns the names in a classes.csv; () if the file does not exist or has other columns, and so another purpose."""
    if not os.path.exists(path):
        return ()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror}; it has to be a file with number,name, or not to be there") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise LabelError(f"{path}: not a CSV file ({error}); expected number,name") from error
    if header != ["number", "name"]:
        if sorted(re.split(r"[,;\t]", ",".join(header).replace(" ", "").lower())) == ["name", "number"]:
            raise LabelError(f"{path}:1: the header is {','.join(header)[:40]!r}; write number,name, separated by a comma")
        return ()
    names: dict[str, None] = {}  # a dict for its order
    for number, row in enumerate(rows):
        if len(row) != 2 or row[0] != str(number) or row[1] in names:
            raise LabelError(f"{path}:{number + 2}: {','.join(row)!r} is not class {number} and a name; expected number,name")
        names[row[1]] = None
    return tuple(names)
