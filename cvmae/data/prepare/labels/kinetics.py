"""Reader of the label files of Kinetics-400, -600 and -700: a CSV file for each split, or one for all splits."""

import os

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, read_table
from cvmae.storage.path import isdir, isfile, join, names_in

COLUMNS = "label,youtube_id,time_start,time_end,split"
SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def read(labels: str) -> Listing:
    """Returns the listing of all splits. Class numbers follow the sorted class names.

    A file without the column `split` belongs to the split in its name; `label` may be absent or empty in test files.

    Args:
      labels: a CSV file, or a folder with CSV files that have train, val or test in their names.

    Raises:
      PrepareError: a file or column is missing, or a value is not as published.
    """
    rows_by_file = {path: list(_rows(path)) for path in _files(labels)}
    rows = [row for of_file in rows_by_file.values() for row in of_file]
    names = tuple(sorted({label for _, label, _, _ in rows if label}))
    listing = Listing(names, {"manifest": []})
    for where, label, split, (identity, start, end) in rows:
        cut = f"{identity}_{start:06d}_{end:06d}"
        stems = (cut, f"{identity}_{start}_{end}", identity)
        listing.add("manifest", split, Video(f"{cut}.mp4", label, stems, (label, split), (start, end)), where)
    for path in (path for path, of_file in rows_by_file.items() if not of_file):
        listing.mark_empty(_split_of_name(path), path, f"rows of {COLUMNS}")
    return listing


def _files(labels):
    if isfile(labels):
        return [labels]
    is_folder = isdir(labels)
    names = names_in(labels) if is_folder else []
    files = [join(labels, name) for name in names if name.endswith(".csv") and not name.startswith(".") and _split_of_name(name)]
    if not files:
        problem = "has no CSV file for train, val or test" if is_folder else "No such file or directory"
        raise PrepareError(f"{labels}: {problem}; --labels is a CSV file, or the folder of those, with the columns {COLUMNS}")
    return files


def _split_of_name(path):
    stem = os.path.basename(path).lower()
    return next((split for word, split in SPLITS.items() if word in stem), "")


def _rows(path):
    """Yields (where, label, split, (id, start, end)) for each row of a file; times in seconds."""
    by_name = _split_of_name(path)
    for where, row in read_table(path, ("youtube_id", "time_start", "time_end"), COLUMNS):
        split = SPLITS.get((row.get("split") or by_name).lower())
        if not split:
            raise PrepareError(
                f"{where}: split {row.get('split', '')!r} is unknown, not one of {', '.join(SPLITS)}; expected {COLUMNS}"
            )
        label = normal_form(row.get("label", ""))
        if not label and split != "test":
            raise PrepareError(f"{where}: no label, and this is no test video; expected {COLUMNS}")
        identity = row["youtube_id"]
        if not identity or os.path.basename(identity) != identity:
            raise PrepareError(f"{where}: youtube_id {identity!r} is no file name; expected {COLUMNS}")
        yield where, label, split, (identity, *_times(where, row))


def _times(where, row):
    try:
        start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
    except ValueError:
        start, end = 0, 0
    if not 0 <= start < end:
        raise PrepareError(
            f"{where}: time_start {row['time_start']!r} and time_end {row['time_end']!r} are no seconds, the first less "
            f"than the second; expected {COLUMNS}"
        )
    return start, end
