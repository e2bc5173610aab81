"""Manifests: which videos there are, as a CSV file or as JSON lines.

A CSV file has a header line; each line of a JSON-lines file (.jsonl, .ndjson) is an object. The fields are

    path   of the video, absolute, or relative to `root` or else to the manifest's folder
    label  a class number, a class name, or empty for an unlabeled video
    split  train, val, ... any word
    start, end   (optional) seconds, the part of the video to use; empty is open

and any others, which are ignored. If every label is a whole number they are used as they are; otherwise they are
names, numbered in sorted order over all of the manifest's splits. A `classes.csv` beside the manifest, with the columns
number,name, settles both: names have its numbers, whether all of them occur or not, and numbers have its names.

A folder may stand for a manifest where nothing is learned: all videos below it, unlabeled, whatever the split.
"""

import csv
import dataclasses
import json
import os

COLUMNS = "path,label,split[,start,end]"
CLASSES = "classes.csv"
UNLABELED = -1


class ManifestError(ValueError):
    """A manifest cannot be used; the message says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One video: its path, label (UNLABELED if it has none), and part in seconds (None: open)."""

    path: str
    label: int
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The entries of one split, the class names of all splits (() if labels are numbers without names), and where relative paths start."""

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    folder: str


def read_manifest(path: str, split: str, root: str = "") -> Manifest:
    """The part `split` of the manifest at `path`. Raises: ManifestError."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _whole_folder(path)
    rows = list(_read_rows(path))
    labels = {label for _, row in rows if (label := _text(row["label"]))}
    beside = os.path.dirname(os.path.abspath(path))
    names, number = _numbering(labels, os.path.join(beside, CLASSES))
    folder = os.path.expanduser(root) or beside
    entries = tuple(_entry(where, row, number, folder) for where, row in rows if _text(row["split"]) == split)
    if not entries:
        known = ", ".join(sorted({_text(row["split"]) for _, row in rows})) or "none: the file has no rows"
        raise ManifestError(f"{path}: no video has split {split!r}; the splits there are: {known}")
    return Manifest(entries, names, folder)


def _whole_folder(folder: str) -> Manifest:
    from cvmae.data.prepare.text import PrepareError
    from cvmae.data.video_files import VideoFiles

    try:
        paths = VideoFiles(folder).paths
    except PrepareError as error:
        raise ManifestError(str(error)) from error
    if not paths:
        raise ManifestError(f"{folder}: no video file lies below this folder; give another, or a file with {COLUMNS}")
    entries = tuple(Entry(os.path.join(folder, path), UNLABELED) for path in paths)
    return Manifest(entries, (), os.path.abspath(folder))


def _numbering(labels, classes):
    """(names of the classes, {label: number}). classes: the path that classes.csv would have."""
    names = _class_names(classes)
    if labels and not labels <= set(names) and all(_is_number(label) for label in labels):
        number = {label: int(label) for label in labels}
        unknown = {label for label in labels if names and number[label] >= len(names)}
    else:
        names = names or tuple(sorted(labels))
        number = {name: i for i, name in enumerate(names)}
        unknown = labels - set(names)
    if unknown:
        raise ManifestError(f"{classes}: no class {min(unknown)!r}, which the manifest has; add it, or take the file away")
    return names, number


def _class_names(path):
    """The names in a classes.csv; () where there is none, or one with other columns, which is not about this."""
    if not os.path.exists(path):
        return ()
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header != ["number", "name"]:
        return ()
    names = []
    for number, row in enumerate(rows):
        if len(row) != 2 or row[0] != str(number) or row[1] in names:
            raise ManifestError(f"{path}:{number + 2}: {','.join(row)!r} is not class {number} and a name; expected number,name")
        names.append(row[1])
    return tuple(names)


def _read_rows(path):
    """Pairs of ("file:line", {field: value}) that have path, label and split."""
    as_json = path.endswith((".jsonl", ".ndjson", ".json"))
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from (_json_rows if as_json else _csv_rows)(path, file)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; set data.manifest to a file with {COLUMNS}") from error
    except csv.Error as error:
        raise ManifestError(f"{path}: not a CSV file ({error}); expected {COLUMNS}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _csv_rows(path, file):
    reader = csv.DictReader(file)
    _check_fields(f"{path}:1", reader.fieldnames or (), "the header line")
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or None in row.values():
            raise ManifestError(
                f"{where}: the header has {len(reader.fieldnames)} columns, this line has not; quote a path that has a comma"
            )
        yield where, row


def _json_rows(path, file):
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{where}: not JSON ({error.msg}); write one object per line") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{where}: expected an object with {COLUMNS}, got {line.strip()[:40]!r}")
        _check_fields(where, row, "the object")
        yield where, row


def _check_fields(where, fields, what):
    absent = [name for name in ("path", "label", "split") if name not in fields]
    if absent:
        raise ManifestError(f"{where}: {what} lacks {', '.join(absent)}; expected {COLUMNS}")


def _entry(where, row, number, folder):
    path = _text(row["path"])
    if not path:
        raise ManifestError(f"{where}: the path is empty; expected {COLUMNS}")
    label = number.get(_text(row["label"]), UNLABELED)
    if label < 0 and _text(row["label"]) not in ("", str(UNLABELED)):
        raise ManifestError(f"{where}: label {label} is negative; number classes from 0, or leave it empty for no label")
    start, end = _seconds(where, row, "start"), _seconds(where, row, "end")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ManifestError(f"{where}: start {start} and end {end} are not 0 <= start < end; give seconds or leave them empty")
    return Entry(os.path.join(folder, os.path.expanduser(path)), label, start, end)


def _seconds(where, row, field):
    text = _text(row.get(field))
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ManifestError(f"{where}: {field} is {text!r}; give seconds, such as 1.5, or leave it empty") from error


def _text(value) -> str:
    return "" if value is None else str(value).strip()


def _is_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal() and label.isascii()
