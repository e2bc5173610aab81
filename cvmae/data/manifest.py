"""Manifests: lists of videos with labels and splits, as CSV or JSON lines.

A CSV file has a header line; each line of a JSON-lines file (.jsonl, .ndjson) is an object. The fields are

    path   of the video, absolute, or relative to `root` or else to the manifest's folder
    label  a class number, a class name, or empty for an unlabeled video
    split  train, val, ... any word
    start, end   (optional) seconds, the part of the video to use; empty: from its beginning, to its end

Other fields are ignored. If every label is an integer, labels are class numbers; otherwise they are names, numbered in sorted
order over all splits of the manifest. A `classes.csv` beside the manifest, with the columns number,name, overrides this: names
get its numbers, even if some do not occur, and numbers get its names.

A folder can be given in place of a manifest where no labels are needed: all videos below it, unlabeled, for any split.
"""

import csv
import dataclasses
import json
import os

from cvmae.data.video_files import FolderError, VideoFiles

COLUMNS = "path,label,split[,start,end]"
CLASSES = "classes.csv"
UNLABELED = -1


class ManifestError(ValueError):
    """A manifest cannot be used; the message gives the line and a remedy."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of a manifest.

    Attributes:
      path: the video file.
      label: class number, or UNLABELED.
      start, end: seconds, the part of the video to use; None: from its beginning, to its end.
    """

    path: str
    label: int
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A split of a manifest.

    Attributes:
      entries: the videos of the split.
      class_names: of all splits, by class number; () if labels are numbers without names.
      folder: base of relative paths.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    folder: str


def read_manifest(path: str, split: str, root: str = "") -> Manifest:
    """Reads one split of a manifest.

    Args:
      path: a CSV or JSON-lines file, or a folder of videos.
      split: a word of the column split.
      root: base of relative paths; "": the folder of the manifest.

    Raises:
      ManifestError: the manifest cannot be read, or has no such split.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _read_folder(path)
    rows = list(_read_rows(path))
    labels = {label for _, row in rows if (label := _text(row["label"]))}
    manifest_folder = os.path.dirname(os.path.abspath(path))
    names, number = _numbering(labels, os.path.join(manifest_folder, CLASSES))
    folder = os.path.expanduser(root) or manifest_folder
    entries = tuple(_entry(where, row, number, folder) for where, row in rows if _text(row["split"]) == split)
    if not entries:
        known = ", ".join(sorted({_text(row["split"]) for _, row in rows})) or "none: the file has no rows"
        raise ManifestError(f"{path}: no video has split {split!r}; the splits there are: {known}")
    return Manifest(entries, names, folder)


def _read_folder(folder: str) -> Manifest:
    try:
        paths = VideoFiles(folder).paths
    except FolderError as error:
        raise ManifestError(str(error)) from error
    if not paths:
        raise ManifestError(f"{folder}: no video file below this folder; give another one, or a file with {COLUMNS}")
    entries = tuple(Entry(os.path.join(folder, path), UNLABELED) for path in paths)
    return Manifest(entries, (), os.path.abspath(folder))


def _numbering(labels, classes):
    """Returns the class names and {label: number}. classes: path of the classes.csv, which need not exist."""
    names = _class_names(classes)
    if labels and not labels <= set(names) and all(_is_number(label) for label in labels):
        number = {label: int(label) for label in labels}
        unknown = {label for label in labels if names and number[label] >= len(names)}
    else:
        names = names or tuple(sorted(labels))
        number = {name: i for i, name in enumerate(names)}
        unknown = labels - set(names)
    if unknown:
        raise ManifestError(f"{classes}: no class {min(unknown)!r}, which the manifest has; add it, or remove the file")
    return names, number


def _class_names(path):
    """Returns the names in a classes.csv; () if the file does not exist or has other columns, and so another purpose."""
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
    """Yields ("file:line", {field: value}) of each row; path, label and split are among the fields."""
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
                f"{where}: the header has {len(reader.fieldnames)} columns, this line does not; quote a path that has a comma"
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


def _check_fields(where, fields, holder):
    absent = [name for name in ("path", "label", "split") if name not in fields]
    if absent:
        raise ManifestError(f"{where}: {holder} lacks {', '.join(absent)}; expected {COLUMNS}")


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
