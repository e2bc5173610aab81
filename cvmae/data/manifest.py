"""Manifests: lists of videos with labels and splits, as CSV or JSON lines.

A CSV file has a header line; each line of a JSON-lines file (.jsonl, .ndjson) is an object. The fields are

    path   of the video, absolute, also in a bucket, or relative to `root` or else to the manifest's folder
    label  a class number, a class name, or nothing for an unlabeled video; with several labels for a video (multi_label), these
           separated by `;`, or in JSON a list
    split  train, val, ... any word
    start, end   (optional) seconds, the part of the video to use; nothing: from its beginning, to its end

Nothing is an empty cell, or, in any case, nan, none, null, nil, na, n/a, <na>, nat or #n/a; for a label also -1. With several
labels for a video, `<none of the classes>` says that it has none, which no empty cell does. Other fields are not read, and a note
names them. If
most labels are numbers, all are class numbers, 0 to C - 1 (10.0 is 10); otherwise they are names, numbered in sorted order over
all splits of the manifest. A `classes.csv` beside the manifest, with the columns number,name, overrides this: names get its
numbers, even if some do not occur, and numbers get its names.

White space around a cell is not part of it. Around a path it is where a file has this name; if there is one without it as well, the
path has to be in quotes.

A folder can be given in place of a manifest where no labels are needed: all videos below it, unlabeled, for any split.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Collection

from cvmae.data.class_file import read_classes
from cvmae.data.label_texts import CLASSES, NONE_OF_THEM, UNLABELED, LabelError, check_vectors, split_label
from cvmae.data.labels import label_notes, number_label_sets, number_labels, one_label_note
from cvmae.data.manifest_rows import COLUMNS, ManifestError, QuotedText, ignored_fields, read_rows, stray_splits, text_of
from cvmae.data.records import SplitError
from cvmae.data.times import TimeError, parse_part, part_notes
from cvmae.data.video_files import FolderError, VideoFiles
from cvmae.storage.client import LIBRARIES, SCHEMES, SetupError, check_scheme, raise_of_store, scheme_of
from cvmae.storage.path import dirname, expand_user, is_remote, isdir, join, names_in


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


def read_manifest(
    path: str,
    split: str,
    root: str = "",
    multi_label: bool = False,
    pictures: bool = False,
    used: Collection[str] = (),
) -> Manifest:
    """Reads one split of a manifest.

    Args:
      path: a CSV or JSON-lines file, or a folder of videos.
      split: a word of the column split.
      root: base of relative paths; "": the folder of the manifest.
      multi_label: True if a video may have several labels.
      pictures: of a folder, see `VideoFiles`; a file may list pictures either way.
      used: the splits that the run reads, for a note about others that resemble them.

    Raises:
      ManifestError: the manifest cannot be read.
      SplitError: it has no such split.
    """
    try:
        check_scheme(root, "data.root=")
    except SetupError as error:
        raise ManifestError(str(error)) from error
    path, manifest_path = expand_user(path), path
    if _is_folder(path):
        return _read_folder(path, pictures)
    rows = list(read_rows(path))
    manifest_folder = dirname(path if is_remote(path) else os.path.abspath(path))
    try:
        names, label_sets, numbers, notes = _number_rows(rows, join(manifest_folder, CLASSES), multi_label)
    except LabelError as error:
        raise ManifestError(str(error)) from error
    notes += ignored_fields(rows) + stray_splits(rows, used or (split,))
    folder = expand_user(root) or manifest_folder
    numbered = zip(rows, numbers, strict=True)
    find = functools.partial(_find, functools.cache(_names), folder)
    entries = tuple(_entry(where, row, label, find) for (where, row), label in numbered if text_of(row["split"]) == split)
    if not entries:
        known = ", ".join(sorted({text_of(row["split"]) for _, row in rows})) or "none: the file has no rows"
        raise SplitError(f"{path}: no video has split {split!r}; the splits there are: {known}")
    notes += part_notes((entry.start, entry.end) for entry in entries)
    return Manifest(entries, names, folder, tuple(f"{path}: {note}" for note in notes), label_sets, manifest_path, root)


def splits_of(path: str) -> tuple[str, ...]:
    """Returns the splits of a manifest in the order of their first rows. Raises: ManifestError, it cannot be read or has no rows."""
    path = expand_user(path)
    if _is_folder(path):
        raise ManifestError(f"{path} is a folder; give a file with {COLUMNS}")
    splits = tuple(dict.fromkeys(text_of(row["split"]) for _, row in read_rows(path)))
    if not splits:
        raise ManifestError(f"{path}: the file has no rows; expected {COLUMNS}")
    return splits


def _number_rows(rows, classes, multi_label):
    """Returns the class names, `Manifest.label_sets`, the label of every row, and notes. Raises: LabelError."""
    known, unread = read_classes(classes)
    listed = [name for name in known if ";" in name] if multi_label else []
    texts = [split_label(where, row["label"], multi_label, listed) for where, row in rows]
    places: dict[str, str] = {}
    for (where, _), row_texts in zip(rows, texts, strict=True):
        for text in row_texts:
            if text != NONE_OF_THEM or not multi_label:
                places.setdefault(text, where)
    if multi_label:
        check_vectors(zip((where for where, _ in rows), texts, strict=True))
    names, number = number_labels(places, known, classes, multi_label)
    notes = label_notes(unread, names, number, itertools.chain.from_iterable(texts))
    if not multi_label:
        return names, None, [number.get(text, UNLABELED) for (text,) in texts], notes
    if number and max(map(len, texts), default=0) == 1:
        notes.append(one_label_note(number))
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
        raise_of_store(error)
        raise ManifestError(f"{path}: {error.strerror}; give a manifest, a file with {COLUMNS}") from error


def _entry(where, row, label, find):
    path = text_of(row["path"])
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
    file = find(where, row["path"] if isinstance(row["path"], str) else path)
    return Entry(file, label, start, end, int(where.rpartition(":")[2]))


def _find(names, folder, where, text):
    """Returns the file of the field `path`, with the white space around it where there is a file of this name.

    Args:
      names: of a folder, the names in it, see `_names`.
      folder: base of relative paths.
      where: "file:line".
      text: the field.
    """
    path = text.strip()
    plain = join(folder, expand_user(path))
    if text == path:
        return plain
    # No path of a scheme begins with white space.
    exact = join(folder, expand_user(path + text[len(text.rstrip()) :] if scheme_of(path) else text))
    there = [(names_there := names(dirname(file))) is None or os.path.basename(file) in names_there for file in (exact, plain)]
    if all(there) and exact != plain and not isinstance(text, QuotedText):
        raise ManifestError(
            f"{where}: path {text[:60]!r} has white space around it, and a file may be there with it and without; write the path "
            "in quotes to keep the white space, or remove it"
        )
    return exact if there[0] else plain


def _names(folder: str) -> frozenset[str] | None:
    """Returns the names in a folder, one request where it lies in a bucket; none if it is not there, None if it cannot be listed."""
    try:
        return frozenset(names_in(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError:
        return None
