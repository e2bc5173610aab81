"""Texts of the labels of a row: which of them are missing, how several are split, and which are no class, such as a list, a vector or times."""

import re
from collections.abc import Collection, Iterable, Mapping

from cvmae.data.lines import composed, has_line_break

CLASSES = "classes.csv"
UNLABELED = -1
# In lower case: what data frames, spreadsheets and programs write for an empty cell.
EMPTY = frozenset(
    (
        "",
        "nan",
        "-nan",
        "none",
        "null",
        "nil",
        "na",
        "n/a",
        "<na>",
        "nat",
        "#n/a",
        "#na",
        "#n/a n/a",
        "1.#qnan",
        "-1.#qnan",
        "1.#ind",
    )
)
MISSING = EMPTY | {"-1", "-1.0", "-1.#ind"}  # for a label also -1, this package's own word
NONE_OF_THEM = "<none of the classes>"  # a label, where clips have several: the clip is known to have none of the classes

_NUMBERS = r"[+-]?[0-9.]+(?:\s*[,|/]\s*|\s+)[+-]?[0-9.]+(?:(?:\s*[,|/]\s*|\s+)[+-]?[0-9.]+)*"
_QUOTED = r"(?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*,?"
# Labels separated by ;, also that of Chinese and Arabic, or as lists print: [0, 2], ['run', 'jump'], (0, 2), {0, 2}, 0,2 and 0|2. Names may have commas.
_SEVERAL = re.compile(rf"(?s:.*[;\uff1b\u061b].*)|\[[^\[\]]*\]|{_NUMBERS}|[({{]\s*(?:{_NUMBERS}|{_QUOTED})\s*[)}}]")
# A class with two times: c092 11.90 21.20, c092,11.9,21.2, c092 11.9s 21.2s and c092 (11.9-21.2).
_TIME, _UNIT = r"[0-9]+(?:\.[0-9]+)?", r"(?:\s*(?:s|secs?|seconds?))?"
_NAME = r"[(\[{'\"]*(?P<name>\S.*?)['\"]?"
_TIMED = re.compile(rf"{_NAME}[\s,:@(\[|/]+(?P<start>{_TIME}){_UNIT}(?:\s+|\s*[,:|/-]\s*)(?P<end>{_TIME}){_UNIT}[)\]]?")
# A class with one: c092 11.90, c092 (11.9s) and c092@11.9.
_TIMED_ONCE = re.compile(rf"{_NAME}(?P<mark>[\s,:@(\[|/]+)[0-9]+\.[0-9]+{_UNIT}[)\]]?")
# A value as Python prints it: tensor(0), np.int64(0), array([0]), Array(0, dtype=int32), b'run'.
_PRINTED = re.compile(
    r"(?:[A-Za-z_]+\.)?(?:tensor|array|Array|Tensor|u?int[0-9]+|float[0-9]+|str_|bytes_|bool_?)\((?P<value>.*)\)|b(?P<text>'.*'|\".*\")"
)
# A class with a weight: run=0.5, run: 1.0.
_WEIGHTED = re.compile(r"(?P<name>.*\S)\s*[=:]\s*(?:0?\.[0-9]+|[01](?:\.[0-9]*)?|[0-9.]+%)")
_LONGEST = 200  # characters of a class with times, since the pattern is slow on long texts
_BITS = {"0": 0, "0.": 0, "0.0": 0, "false": 0, "1": 1, "1.": 1, "1.0": 1, "true": 1}
_ONE, TO_LEARN_SEVERAL = "give one class per video", "to learn several, separate them by ; and set --config.data.multi_label=True"
TO_LEARN_NONE = "set --config.data.multi_label=True, or leave it empty"


class LabelError(ValueError):
    """A label or a file of class names cannot be used; the message gives the line and a remedy."""


def split_label(where: str, value, multi_label: bool, listed: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the texts of the labels of a row, stripped; those that are missing are among them.

    Args:
      where: the place of the row, "file:line".
      value: the field `label`: a text, a number, None, or with JSON lines anything else.
      multi_label: True splits a text at `;`, and takes a list as labels whose texts may contain `;`.
      listed: the classes of classes.csv; one that contains `;` is not split where it is the whole text.

    Raises:
      LabelError: the value is an object, or a list without `multi_label`, or a list of lists or objects, or a text that has such a class
        beside another one.
    """
    values = value if isinstance(value, list) and multi_label else [value]
    if any(isinstance(part, dict) for part in values) or any(isinstance(part, list) for part in values if multi_label):
        raise LabelError(f"{where}: label {str(value)[:40]} is no class; give a class number or a name")
    if isinstance(value, list) and not multi_label:
        raise LabelError(f"{where}: label {str(value)[:40]} is several labels; {_ONE}; {TO_LEARN_SEVERAL}")
    if isinstance(value, str) and multi_label:
        values = _parts(where, value, listed)
    texts = tuple("" if part is None else normal_form(str(part)) for part in values)
    if broken := next(filter(has_line_break, texts), ""):
        raise LabelError(f"{where}: label {broken[:40]!r} has a line break; write it in one line")
    none = [" ".join(text.lower().split()) == NONE_OF_THEM for text in texts]
    if not any(none):
        return texts
    if multi_label and not all(is_none or text.lower() in MISSING for text, is_none in zip(texts, none, strict=True)):
        raise LabelError(f"{where}: label {str(value)[:60]!r} has {NONE_OF_THEM} beside a class; give one of the two")
    return (NONE_OF_THEM,)


def _parts(where, text, listed):
    """Returns the parts of a text between `;`. Raises: LabelError, a listed class has one and so may be a part or two."""
    full_text, parts = normal_form(text), [normal_form(part) for part in text.split(";")]
    if full_text in listed:
        return [full_text]
    for name in (name for name in listed if ";" in name):
        words = [word.strip() for word in name.split(";")]
        if any(parts[at : at + len(words)] == words for at in range(len(parts))):
            raise LabelError(
                f"{where}: label {text[:60]!r} may have the class {name[:40]!r} of {CLASSES} in it, or the parts of that; give a JSON list "
                "in a .jsonl file, or rename the class"
            )
    return parts


def normal_form(text: str) -> str:
    """Returns a label's text without spaces around it, in the normal form NFC: an accent may be written as one character or as two."""
    return composed(text).strip()


def check_texts(labels: Mapping[str, str], listed: Collection[str], multi_label: bool) -> None:
    """Checks that every text may be one class.

    Args:
      labels: distinct texts that are not missing, with the place of the first row that has it, "file:line".
      listed: texts that are classes whatever they look like.
      multi_label: True if `labels` are the parts of lists separated by `;`, for the remedy of the message.

    Raises:
      LabelError: a text is a class with times or weights, a value as Python prints it, a vector of zeros and ones, or several labels.
    """
    unlisted = {label: where for label, where in labels.items() if label not in listed}
    _check_printed(unlisted)
    if multi_label:
        _check_weights(unlisted)
    _check_times(unlisted, multi_label)
    _check_digits(unlisted, multi_label)
    for label, where in labels.items():
        if label in listed or not (_SEVERAL.fullmatch(label) or (multi_label and _is_list(label, labels))):
            continue
        cells = [part.lower() for part in re.findall(r"[^\s,;|/()\[\]{}'\"]+", label)]
        if _BITS.keys() >= set(cells) and len(set(cells)) < len(cells):
            raise LabelError(_vector(where, label, cells, multi_label))
        remedy = (
            f"separate them by ;, or list it in {CLASSES}"
            if multi_label
            else f"{_ONE}, or list it in {CLASSES}; {TO_LEARN_SEVERAL}"
        )
        raise LabelError(f"{where}: label {label[:40]!r} is several labels; {remedy}")


def check_vectors(rows: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Checks that rows of several labels are not vectors with a one for each class that a video has.

    They are where nothing but 0 and 1 occurs, and a row has one of them twice or all rows that have labels are equally long. Two classes
    with these numbers give rows of different lengths.

    Args:
      rows: ("file:line", texts of the labels, see `split_label`) of every row.

    Raises:
      LabelError: they are vectors, with the first row.
    """
    labeled = []
    for where, texts in rows:
        cells = [text.lower() for text in texts]
        known = set(cells) - MISSING
        if not _BITS.keys() >= known:
            return
        if known:
            labeled.append((where, cells))
    # A part that is missing has its place in a vector; an empty one at the end is a separator too many.
    lengths = {len(cells) - (cells[-1] == "") for _, cells in labeled}
    for where, cells in labeled:
        values = [_BITS[part] for part in cells if part in _BITS]
        if len(set(values)) < len(values) or (len(lengths) == 1 and len(values) > 1):
            raise LabelError(_vector(where, ";".join(cells), cells, True))


def _check_printed(labels: Mapping[str, str]) -> None:
    """Raises LabelError for a value as Python prints it, such as `tensor(0)`, which would be a name."""
    for label, where in labels.items():
        if match := _PRINTED.fullmatch(label):
            value = (match["value"] or match["text"] or "").partition(",")[0].strip("[]()'\" ")
            raise LabelError(
                f"{where}: label {label[:40]!r} is a value as Python prints it; write {value[:40] or 'the class'} alone (of an array, "
                f"x.item(); of bytes, x.decode()), or list it in {CLASSES}"
            )


def _check_weights(labels: Mapping[str, str]) -> None:
    """Raises LabelError where most labels are classes with a weight; one alone may be a name, such as ratio 4:1."""
    weighted = {label: match for label in labels if (match := _WEIGHTED.fullmatch(label))}
    if 2 * len(weighted) > len(labels):
        label, match = next(iter(weighted.items()))
        raise LabelError(
            f"{labels[label]}: label {label[:40]!r} is a class with a weight, and labels have none; write {match['name'][:40]}, or list "
            f"it in {CLASSES}"
        )


def _check_digits(labels: Mapping[str, str], multi_label: bool) -> None:
    """Raises LabelError for vectors without marks between the parts: all labels are as many zeros and ones, and one begins with 0."""
    lengths = {len(label) for label in labels}
    if len(lengths) != 1 or min(lengths) < 2 or not all(set(label) <= {"0", "1"} for label in labels):
        return
    if padded := next((label for label in labels if label[0] == "0"), ""):
        text = _vector(labels[padded], padded, list(padded), multi_label)
        raise LabelError(f"{text}; if it is a number, write it without the zero in front")


def _vector(where, label, cells, multi_label):
    """Returns the message about a row that is a vector of zeros and ones, with the class numbers to write in its place."""
    ones = [str(number) for number, part in enumerate(cells) if _BITS.get(part) == 1]
    write = f"write the number{'s of the classes' if multi_label else ' of the class'} whose value is 1"
    here = ";".join(ones) if ones else NONE_OF_THEM if multi_label else ""
    if not multi_label and len(ones) != 1:
        return f"{where}: label {label[:40]!r} is a vector of zeros and ones; {write}; {TO_LEARN_SEVERAL}"
    return f"{where}: label {label[:40]!r} is a vector of zeros and ones; {write}, here {here[:60]}, and none of them twice"


def _check_times(labels: Mapping[str, str], multi_label: bool) -> None:
    """Raises LabelError for a class with times. Two whole numbers may belong to a name, unless they do so in most of the labels.

    So may one time, which is looked for only where a video may have several labels.
    """
    timed = {label: match for label in labels if (match := _timed(label if multi_label else label.partition(";")[0].strip()))}
    most = 2 * len(timed) > len(labels) > 1
    timed = {label: match for label, match in timed.items() if most or "." in match["start"] + match["end"]}
    for label, match in (timed or (_timed_once(labels) if multi_label else {})).items():
        raise LabelError(
            f"{labels[label]}: label {label[:40]!r} is a class with times; write {match['name'][:40]}, and for parts of a video a "
            f"row for each with start and end; or list it in {CLASSES}"
        )


def _timed_once(labels: Collection[str]) -> dict[str, re.Match]:
    """Returns the classes with one time: those with `@`, and where most labels have a fraction behind names that differ, all of these."""
    matches = {label: _TIMED_ONCE.fullmatch(label) for label in labels if len(label) <= _LONGEST}
    timed = {label: match for label, match in matches.items() if match and any(map(str.isalpha, match["name"]))}
    if 2 * len(timed) > len(labels) and len({match["name"] for match in timed.values()}) > 1:
        return timed
    return {label: match for label, match in timed.items() if match["mark"].strip() == "@"}


def _timed(text: str) -> re.Match | None:
    """Returns the parts of a class with two times, the second after the first; None for another text, such as three numbers."""
    match = _TIMED.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or float(match["start"]) >= float(match["end"]):
        return None
    is_list = re.fullmatch(r"[+-]?[0-9]+" if "." not in match["start"] + match["end"] else r"[+-]?[0-9]*\.[0-9]*", match["name"])
    return None if is_list else match


def _is_list(label: str, labels: Collection[str]) -> bool:
    """Returns True where a text is several labels with commas or bars, or has a bracket without its partner, as a part of `[0;2]`.

    Names have commas, so of parts with commas all must be labels; with bars, which names hardly have, one of them.
    """
    parts = [part.strip() for part in re.split(r"[,|]", label)]
    if len(parts) > 1 and all(map(labels.__contains__, parts)):
        return True
    bars = [part.strip() for part in label.split("|")]
    if len(bars) > 1 and any(map(labels.__contains__, bars)):
        return True
    pairs = (("[", "]"), ("(", ")"), ("{", "}"))
    return any((label.startswith(a) and b not in label) or (label.endswith(b) and a not in label) for a, b in pairs)
