"""Reader of the label files of HMDB51: for each class three files, `CLASS_test_split1.txt` to `CLASS_test_split3.txt`."""

import os
import re

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, read_lines
from cvmae.storage.path import isdir, join, names_in

FILES = "CLASS_test_split1.txt to CLASS_test_split3.txt of each class of HMDB51"
_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits")  # folder names in the published archive
_EXPECTED = "video.avi and 1 (train), 2 (test) or 0 (not in this split)"
_SPLITS = {"0": "", "1": "train", "2": "test"}


def read(labels: str) -> Listing:
    """Returns the listing of the three splits. Class numbers follow the sorted class names.

    Args:
      labels: folder with the label files, or its parent in the published archive.

    Raises:
      PrepareError: a file is missing, or a line is not as published.
    """
    folder, files = _files(labels)
    classes = tuple(sorted({name for name, _ in files}))
    listing = Listing(classes, {f"split{n}": [] for n in (1, 2, 3)})
    for n in (1, 2, 3):
        for label in classes:
            if (label, n) not in files:
                absent = join(folder, f"{label}_test_split{n}.txt")
                raise PrepareError(f"{absent}: no such file; --labels is the folder with {FILES}")
            path = join(folder, files[label, n])
            lines = list(read_lines(path, _EXPECTED))
            if not lines:
                listing.mark_empty("", path, _EXPECTED)
            for where, line in lines:
                file, _, flag = line.rpartition(" ")
                if flag not in _SPLITS or not file.strip() or "/" in file:
                    raise PrepareError(f"{where}: {line!r} is not what is due here; expected {_EXPECTED}")
                if _SPLITS[flag]:
                    listing.add(f"split{n}", _SPLITS[flag], _video(label, file.strip()), where)
        if not any(split == "train" for _, split in listing.manifests[f"split{n}"]):
            listing.mark_empty("train", join(folder, f"*_test_split{n}.txt"), _EXPECTED)
    return listing


def _files(labels):
    """Returns (folder, {(class, split number): name}) of the label files that are there."""
    for folder in (labels, *(join(labels, name) for name in _FOLDERS)):
        names = names_in(folder) if isdir(folder) else ()
        matches = (re.fullmatch(r"(.+)_test_split([123])\.txt", name) for name in names if not name.startswith("."))
        if files := {(normal_form(match[1]), int(match[2])): match[0] for match in matches if match}:
            return folder, files
    problem = "has no *_test_split1.txt" if isdir(labels) else "is not a folder"
    raise PrepareError(f"{labels}: {problem}; --labels is the folder with {FILES}")


def _video(label, file):
    return Video(f"{label}/{file}", label, (os.path.splitext(file)[0],), (label,))
