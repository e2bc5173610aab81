"""Manifests: lists of videos with labels and splits, as CSV or JSON lines.

A CSV file has a header line; each line of a JSON-lines file (.jsonl, .ndjson) is an object. The fields are

    path   of the video, absolute, also in a bucket, or relative to `root` or else to the manifest's folder
    label  a class number, a class name, or nothing for an unlabeled video; with several labels for a video (multi_label), these
           separated by `;`, or in JSON a list
    split  train, val, ... any word
    start, end   (optional) seconds, the part of the video to use; nothing: from its beginning, to its end

Nothing is an empty cell, or, in any case, nan, none, null, nil, na, n/a, <na>, nat or #n/a; for a label also -1. With several
labels for a video, `<none of the classes>` says that it has none, which no empty cell does. Other fields are ignored. If
most labels are numbers, all are class numbers, 0 to C - 1 (10.0 is 10); otherwise they are names, numbered in sorted order over
all splits of the manifest. A `classes.csv` beside the manifest, with the columns number,name, overrides this: names get its
numbers, even if some do not occur, and numbers get its names.

A folder can be given in place of a manifest where no labels are needed: all videos below it, unlabeled, for any split.
"""

import csv
import dataclasses
import io
import json
import os
import re

from cvmae.data.label_texts import CLASSES, NONE_OF_THEM, UNLABELED, LabelError, check_vectors, split_label
from cvmae.data.labels import label_notes, number_label_sets, number_labels
from cvmae.data.lines import has_line_break
from cvmae.data.records import SplitError
from cvmae.data.text_files import TextError, read_utf8
from cvmae.data.times import TimeError, parse_part
from cvmae.data.video_files import FolderError, VideoFiles
from cvmae.storage.client import LIBRARIES, SCHEMES, scheme_of
from cvmae.storage.path import dirname, expand_user, is_remote, isdir, join

COLUMNS = "path,label,split[,start,end]"
COLUMN_NAMES = ("path", "label", "split", "start", "end")
_REQUIRED = COLUMN_NAMES[:3]
# The words of columns that give times under other names.
_BOUNDS = {"start", "begin", "from", "end", "stop", "to"}
_TIMES = {"time", "times", "timestamp", "t", "s", "ms", "sec", "secs", "second", "seconds", "frame", "frames", "clip", "segment"}


class ManifestError(ValueError):
    """A manifest cannot be used; the message gives the line and a remedy."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of a manifest.

    Attributes:
      path: the video file.
      label: class number, or with several labels for a video the row of `Manifest.label_sets`; or UNLABELED.
      start, end: seconds, the part of the video to use; None: from its beginning, to its end.
      line: number of its line in the file; 0 where a folder is given in place of one.
    """

    path: str
    label: int
    start: float | None = None
    end: float | None = None
    line: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A split of a manifest.

    Attributes:
      entries: the videos of the split.
      class_names: of all splits, by class number; () if labels are numbers without names.
      folder: base of relative paths.
      notes: lines for the start of a run, about files that are left out and labels that may not be meant so.
      label_sets: with several labels for a video, the distinct sets of class numbers of all splits, each ascending, in sorted
        order; else None.
      path: of the file, as it was given.
      root: `data.root` as it was given; "" for the folder of the file.
    """

    entries: tuple[Entry, ...]
    class_names: tuple[str, ...]
    folder: str
    notes: tuple[str, ...] = ()
    label_sets: tuple[tuple[int, ...], ...] | None = None
    path: str = ""
    root: str = ""


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
    path, manifest_path = expand_user(path), path
    if _is_folder(path):
        return _read_folder(path, pictures)
    rows = list(_read_rows(path))
    manifest_folder = dirname(path if is_remote(path) else os.path.abspath(path))
    try:
        names, label_sets, numbers, notes = _number_rows(rows, join(manifest_folder, CLASSES), multi_label)
    except LabelError as error:
        raise ManifestError(str(error)) from error
    folder = expand_user(root) or manifest_folder
    numbered = zip(rows, numbers, strict=True)
    entries = tuple(_entry(where, row, label, folder) for (where, row), label in numbered if _text(row["split"]) == split)
    if not entries:
        known = ", ".join(sorted({_text(row["split"]) for _, row in rows})) or "none: the file has no rows"
        raise SplitError(f"{path}: no video has split {split!r}; the splits there are: {known}")
    return Manifest(entries, names, folder, tuple(f"{path}: {note}" for note in notes), label_sets, manifest_path, root)


def splits_of(path: str) -> tuple[str, ...]:
    """Returns the splits of a manifest in the order of their first rows. Raises: ManifestError, it cannot be read or has no rows."""
    path = expand_user(path)
    if _is_folder(path):
        raise ManifestError(f"{path} is a folder; give a file with {COLUMNS}")
    splits = tuple(dict.fromkeys(_text(row["split"]) for _, row in _read_rows(path)))
    if not splits:
        raise ManifestError(f"{path}: the file has no rows; expected {COLUMNS}")
    return splits


def _number_rows(rows, classes, multi_label):
    """Returns the class names, `Manifest.label_sets`, the label of every row, and notes. Raises: LabelError."""
    texts = [split_label(where, row["label"], multi_label) for where, row in rows]
    places: dict[str, str] = {}
    for (where, _), row_texts in zip(rows, texts, strict=True):
        for text in row_texts:
            if text != NONE_OF_THEM or not multi_label:
                places.setdefault(text, where)
    if multi_label:
        check_vectors(zip((where for where, _ in rows), texts, strict=True))
    names, number = number_labels(places, classes, multi_label)
    notes = label_notes(names, number)
    if not multi_label:
        return names, None, [number.get(text, UNLABELED) for (text,) in texts], notes
    rows_of_numbers = [frozenset(number[text] for text in row if text in number) for row in texts]
    twice = [row for row, of_row in enumerate(rows_of_numbers) if len(of_row) < sum(text in number for text in texts[row])]
    if twice:
        example = f"{rows[twice[0]][0]}, {';'.join(texts[twice[0]])[:60]!r}"
        notes.append(f"{len(twice):,} rows have a class more than once, which counts once, first {example}")
    is_labeled = [bool(of_row) or row == (NONE_OF_THEM,) for row, of_row in zip(texts, rows_of_numbers, strict=True)]
    sets, numbers = number_label_sets([row if known else None for row, known in zip(rows_of_numbers, is_labeled, strict=True)])
    return names, sets, numbers, notes


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
    entries = tuple(Entry(join(folder, path), UNLABELED) for path in files.paths)
    return Manifest(entries, (), folder if is_remote(folder) else os.path.abspath(folder), tuple(notes))


def _is_folder(path: str) -> bool:
    try:
        return isdir(path)
    except OSError as error:  # only of a bucket
        raise ManifestError(f"{path}: {error.strerror}; set data.manifest to a file with {COLUMNS}") from error


def _read_rows(path):
    """Yields ("file:line", {field: value}) of each row; path, label and split are among the fields."""
    as_json = path.endswith((".jsonl", ".ndjson", ".json"))
    try:
        yield from (_json_rows if as_json else _csv_rows)(path, io.StringIO(read_utf8(path), newline=""))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; set data.manifest to a file with {COLUMNS}") from error
    except csv.Error as error:
        raise ManifestError(f"{path}: not a CSV file ({error}); expected {COLUMNS}") from error
    except TextError as error:
        raise ManifestError(f"{error}; data.manifest is a file with {COLUMNS}") from error


def _csv_rows(path, file):
    reader = csv.DictReader(file)
    names = reader.fieldnames or ()
    _check_header(f"{path}:1", names)
    before = reader.line_num
    for row in reader:
        where = f"{path}:{reader.line_num}"
        others = [cell for name, cell in row.items() if name not in (None, "path") and cell] + (row.get(None) or [])
        # A name may have a line break; a path that took rows into it begins with the rest of its own row.
        is_whole = (row["path"] or "").partition("\n")[0].count(",") < len(names) - 1 - names.index("path")
        _check_one_line(f"{path}:{before + 1}", others if is_whole else [row["path"], *others])
        before = reader.line_num
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
        if has_line_break(split := _text(row["split"])):
            raise ManifestError(f"{where}: split {split[:40]!r} has a line break; write it in one line")
        yield where, row


def _check_header(where, names):
    _check_one_line(where, names)
    for name in names:
        if name not in COLUMN_NAMES and name.strip().lower() in COLUMN_NAMES:
            raise ManifestError(f"{where}: the header has {name!r}; write {name.strip().lower()}, as in {COLUMNS}")
    line = ",".join(names)
    instead = next((mark for mark in "\t;| " if set(_REQUIRED) <= {part.strip().lower() for part in line.split(mark)}), None)
    hint = "" if instead is None else f": put commas in place of {instead!r}"
    _check_fields(where, names, "the header line", f"; it is {line[:60]!r}{hint}")
    twice = sorted({name for name in names if names.count(name) > 1} & set(COLUMN_NAMES))
    if twice:
        raise ManifestError(f"{where}: the header line has {', '.join(twice)} twice; expected {COLUMNS}")


def _check_one_line(where, cells):
    """Raises ManifestError for a cell with a line break: a quote without its partner takes the rows behind it into one cell."""
    broken = [cell for cell in cells if "\n" in cell or "\r" in cell]
    if broken:
        start = broken[0].splitlines()[0][:40]
        raise ManifestError(f"{where}: a quoted field runs over several lines, from {start!r} on; close the quote, or remove it")


def _check_fields(where, fields, holder, more=""):
    absent = [name for name in _REQUIRED if name not in fields]
    if absent:
        raise ManifestError(f"{where}: {holder} lacks {', '.join(absent)}; expected {COLUMNS}{more}")
    times = [name for name in fields if name not in COLUMN_NAMES and _is_time(name)]
    if times:
        raise ManifestError(
            f"{where}: {holder} has {', '.join(times)}, which would not be read: write start and end, in seconds, or leave it out"
        )


def _is_time(name):
    """Returns True for the name of a column that gives a beginning or an end, such as start_time or endFrame, and not end_effector."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(name))}
    return bool(words & _BOUNDS) and words <= _BOUNDS | _TIMES


def _entry(where, row, label, folder):
    path = _text(row["path"])
    if not path:
        raise ManifestError(f"{where}: the path is empty; expected {COLUMNS}")
    if "\0" in path or isinstance(row["path"], (dict, list)):
        raise ManifestError(f"{where}: path {path[:40]!r} is no path of a file; expected {COLUMNS}")
    if (scheme := scheme_of(path)) and scheme not in LIBRARIES:
        raise ManifestError(
            f"{where}: path {path[:60]!r} begins with {scheme}://; give a path of this machine, or one with {SCHEMES}"
        )
    try:
        start, end = parse_part(where, row.get("start"), row.get("end"))
    except TimeError as error:
        raise ManifestError(str(error)) from error
    return Entry(join(folder, expand_user(path)), label, start, end, int(where.rpartition(":")[2]))


def _text(value) -> str:
    return "" if value is None else str(value).strip()
