"""Manifests: lists of videos with labels and splits, as CSV or JSON lines.

A CSV file has a header line; each line of a JSON-lines file (.jsonl, .ndjson) is an object. The fields are

    path   of the video, absolute, or relative to `root` or else to the manifest's folder
    label  a class number, a class name, or nothing for an unlabeled video; with several labels for a video (multi_label), these
           separated by `;`, or in JSON a list
    split  train, val, ... any word
    start, end   (optional) seconds, the part of the video to use; nothing: from its beginning, to its end

Nothing is an empty cell, or, in any case, nan, none, null, na, n/a or <na>; for a label also -1. Other fields are ignored. If
most labels are numbers, all are class numbers, 0 to C - 1 (10.0 is 10); otherwise they are names, numbered in sorted order over
all splits of the manifest. A `classes.csv` beside the manifest, with the columns number,name, overrides this: names get its
numbers, even if some do not occur, and numbers get its names.

A folder can be given in place of a manifest where no labels are needed: all videos below it, unlabeled, for any split.
"""

import csv
import dataclasses
import json
import math
import os

from cvmae.data.labels import CLASSES, MISSING, UNLABELED, LabelError, number_label_sets, number_labels, split_label
from cvmae.data.records import SplitError
from cvmae.data.video_files import FolderError, VideoFiles

COLUMNS = "path,label,split[,start,end]"
COLUMN_NAMES = ("path", "label", "split", "start", "end")


class ManifestError(ValueError):
    """A manifest cannot be used; the message gives the line and a remedy."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of a manifest.

    Attributes:
      path: the video file.
      label: class number, or with several labels for a video the row of `Manifest.label_sets`; or UNLABELED.
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
      notes: lines for the start of a run, about files that are left out.
      label_sets: with several labels for a video, the distinct sets of class numbers of all splits, each ascending, in sorted
        order; else None.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    folder: str
    notes: tuple[str, ...] = ()
    label_sets: tuple[tuple[int, ...], ...] | None = None


def read_manifest(path: str, split: str, root: str = "", multi_label: bool = False, pictures: bool = False) -> Manifest:
    """Reads one split of a manifest.

    Args:
      path: a CSV or JSON-lines file, or a folder of videos.
      split: a word of the column split.
      root: base of relative paths; "": the folder of the manifest.
      multi_label: True if a video may have several labels.
      pictures: of a folder, see `VideoFiles`; a file may list pictures either way.

    Raises:
      ManifestError: the manifest cannot be read.
      SplitError: it has no such split.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return _read_folder(path, pictures)
    rows = list(_read_rows(path))
    manifest_folder = os.path.dirname(os.path.abspath(path))
    try:
        names, label_sets, numbers = _number_rows(rows, os.path.join(manifest_folder, CLASSES), multi_label)
    except LabelError as error:
        raise ManifestError(str(error)) from error
    folder = os.path.expanduser(root) or manifest_folder
    numbered = zip(rows, numbers, strict=True)
    entries = tuple(_entry(where, row, label, folder) for (where, row), label in numbered if _text(row["split"]) == split)
    if not entries:
        known = ", ".join(sorted({_text(row["split"]) for _, row in rows})) or "none: the file has no rows"
        raise SplitError(f"{path}: no video has split {split!r}; the splits there are: {known}")
    return Manifest(entries, names, folder, label_sets=label_sets)


def splits_of(path: str) -> tuple[str, ...]:
    """Returns the splits of a manifest in the order of their first rows. Raises: ManifestError, it cannot be read or has no rows."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        raise ManifestError(f"{path} is a folder; give a file with {COLUMNS}")
    splits = tuple(dict.fromkeys(_text(row["split"]) for _, row in _read_rows(path)))
    if not splits:
        raise ManifestError(f"{path}: the file has no rows; expected {COLUMNS}")
    return splits


def _number_rows(rows, classes, multi_label):
    """Returns the class names, `Manifest.label_sets`, and the label of every row. Raises: LabelError."""
    texts = [split_label(where, row["label"], multi_label) for where, row in rows]
    places: dict[str, str] = {}
    for (where, _), row_texts in zip(rows, texts, strict=True):
        for text in row_texts:
            places.setdefault(text, where)
    names, number = number_labels(places, classes, multi_label)
    if not multi_label:
        return names, None, [number.get(text, UNLABELED) for (text,) in texts]
    sets, numbers = number_label_sets([frozenset(number[text] for text in row if text in number) for row in texts])
    return names, sets, numbers


def _read_folder(folder: str, pictures: bool) -> Manifest:
    try:
        files = VideoFiles(folder, pictures)
    except FolderError as error:
        raise ManifestError(str(error)) from error
    left_out = files.left_out_text()
    if not files.paths:
        aside = left_out and f" ({left_out})"
        if files.has_pictures:
            raise ManifestError(f"{folder}: no video file below this folder{aside}; --config.data.pictures=True takes pictures")
        raise ManifestError(f"{folder}: no video file below this folder{aside}; give another one, or a file with {COLUMNS}")
    notes = [f"{folder}: {len(files.paths):,} videos, {left_out}"] if left_out else []
    if files.odd:
        notes.append(f"{folder}: {len(files.odd):,} names are not UTF-8 and left out, such as {files.odd[0]}; rename them")
    entries = tuple(Entry(os.path.join(folder, path), UNLABELED) for path in files.paths)
    return Manifest(entries, (), os.path.abspath(folder), tuple(notes))


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
    names = reader.fieldnames or ()
    _check_fields(f"{path}:1", names, "the header line")
    for name in names:
        if name not in COLUMN_NAMES and name.strip().lower() in COLUMN_NAMES:
            raise ManifestError(f"{path}:1: the header has {name!r}; write {name.strip().lower()}, as in {COLUMNS}")
    twice = sorted({name for name in names if names.count(name) > 1} & set(COLUMN_NAMES))
    if twice:
        raise ManifestError(f"{path}:1: the header line has {', '.join(twice)} twice; expected {COLUMNS}")
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
            json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise ManifestError(f"{where}: not JSON ({error.msg}); write one object per line") from error
        except (ValueError, RecursionError) as error:  # half a surrogate pair, a number of thousands of digits, deep nesting
            raise ManifestError(f"{where}: JSON that is no text or number ({str(error)[:60]}); repair the line") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{where}: expected an object with {COLUMNS}, got {line.strip()[:40]!r}")
        _check_fields(where, row, "the object")
        yield where, row


def _check_fields(where, fields, holder):
    absent = [name for name in ("path", "label", "split") if name not in fields]
    if absent:
        raise ManifestError(f"{where}: {holder} lacks {', '.join(absent)}; expected {COLUMNS}")


def _entry(where, row, label, folder):
    path = _text(row["path"])
    if not path:
        raise ManifestError(f"{where}: the path is empty; expected {COLUMNS}")
    if "\0" in path or isinstance(row["path"], (dict, list)):
        raise ManifestError(f"{where}: path {path[:40]!r} is no path of a file; expected {COLUMNS}")
    start, end = _seconds(where, row, "start"), _seconds(where, row, "end")
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ManifestError(f"{where}: start {start} and end {end} are not 0 <= start < end; give seconds or leave them empty")
    return Entry(os.path.join(folder, os.path.expanduser(path)), label, start, end)


def _seconds(where, row, field):
    """Returns a time in seconds; None if it is open."""
    text = _text(row.get(field))
    if text.lower() in MISSING and not text.startswith("-"):
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or "_" in text:
        raise ManifestError(f"{where}: {field} is {text[:40]!r}; give seconds, such as 1.5, or leave it empty")
    return seconds


def _text(value) -> str:
    return "" if value is None else str(value).strip()
