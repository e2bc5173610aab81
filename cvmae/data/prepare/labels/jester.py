"""Reader of the label files of Jester, version 1: `jester-v1-labels.csv`, `-train.csv`, `-validation.csv`, and `-test.csv` if it is there."""

import os

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, find_file, find_optional, read_lines

FILES = "jester-v1-labels.csv, jester-v1-train.csv and jester-v1-validation.csv"
_WITHIN = ("labels", "annotations")
_NAMES = "one class name on each line"
_EXPECTED = {"train": "id;class name", "validation": "id;class name", "test": "an id, or id;class name"}


def read(labels: str) -> Listing:
    """Returns the listing of all splits. Class numbers are the lines of `jester-v1-labels.csv`; published tests are unlabeled.

    Args:
      labels: folder with the label files.

    Raises:
      PrepareError: a file is missing, a line is not as published, or no video to train on is listed.
    """
    classes = _classes(find_file(labels, ("jester-v1-labels.csv",), FILES, _WITHIN))
    listing = Listing(classes, {"manifest": []})
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        files = (f"jester-v1-{name}.csv",)
        path = find_optional(labels, files, _WITHIN) if name == "test" else find_file(labels, files, FILES, _WITHIN)
        if path:
            lines = read_lines(path, _EXPECTED[name])
            videos = ((where, _video(where, line, name, classes)) for where, line in lines)
            listing.add_list("manifest", split, path, videos, _EXPECTED[name])
    return listing


def _classes(path) -> tuple[str, ...]:
    names: list[str] = []
    for where, line in read_lines(path, _NAMES):
        line = normal_form(line)
        if ";" in line or line in names:
            raise PrepareError(f"{where}: {line[:40]!r} is not a new class name; expected {_NAMES}")
        names.append(line)
    if not names:
        raise PrepareError(f"{path}: it lists no class; expected {_NAMES}")
    return tuple(names)


def _video(where, line, name, classes) -> Video:
    identity, semicolon, label = (part.strip() for part in line.partition(";"))
    if not identity or os.path.basename(identity) != identity or identity in (os.curdir, os.pardir):
        raise PrepareError(f"{where}: id {identity[:40]!r} is no name of a file or folder; expected {_EXPECTED[name]}")
    if not semicolon and name != "test":
        raise PrepareError(f"{where}: {line[:40]!r} has no semicolon; expected {_EXPECTED[name]}")
    label = normal_form(label)
    if semicolon and label not in classes:
        raise PrepareError(f"{where}: class {label[:40]!r} is not in jester-v1-labels.csv; expected {_EXPECTED[name]}")
    return Video(identity, label, (identity,))
