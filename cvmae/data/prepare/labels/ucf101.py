"""Reader of the label files of UCF101: `classInd.txt`, `trainlist01.txt` ... `testlist03.txt`."""

import os

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, find_file, read_lines

FILES = "classInd.txt, trainlist0[1-3].txt and testlist0[1-3].txt of UCF101"
_FOLDERS = ("ucfTrainTestlist",)  # folder names in the published archive
_CLASSES = "class number (from 1) and class name"
_EXPECTED = {"train": "Class/video.avi and the class number", "test": "Class/video.avi"}


def read(labels: str) -> Listing:
    """Returns the listing of the three splits. Class numbers are the official ones less 1.

    Args:
      labels: folder with the label files, or its parent in the published archive.

    Raises:
      PrepareError: a file is missing, or a line is not as published.
    """
    names = _classes(find_file(labels, ("classInd.txt",), FILES, _FOLDERS))
    listing = Listing(tuple(names.values()), {f"split{n}": [] for n in (1, 2, 3)})
    for n in (1, 2, 3):
        for split, expected in _EXPECTED.items():
            path = find_file(labels, (f"{split}list0{n}.txt",), FILES, _FOLDERS)
            videos = ((where, _video(where, line, names, split)) for where, line in read_lines(path, expected))
            listing.add_list(f"split{n}", split, path, videos, expected)
    return listing


def _classes(path):
    """Returns {number as text: name} of `classInd.txt`, in the order of the numbers."""
    names = {}
    for where, line in read_lines(path, _CLASSES):
        number, _, name = line.partition(" ")
        name = normal_form(name)
        if number != str(len(names) + 1) or not name or name in names.values():
            raise PrepareError(f"{where}: {line!r} is not class {len(names) + 1} and a new name; expected {_CLASSES}")
        names[number] = name
    if not names:
        raise PrepareError(f"{path}: it lists no class; expected {_CLASSES}")
    return names


def _video(where, line, names, split):
    expected = _EXPECTED[split]
    path, _, number = line.rpartition(" ") if line[-1].isdigit() else (line, "", "")
    label, _, file = path.strip().partition("/")
    label = normal_form(label)
    if not file or "/" in file or (split == "train" and not number):
        raise PrepareError(f"{where}: {line!r} is not what is due here; expected {expected}")
    if label not in names.values():
        raise PrepareError(f"{where}: class {label!r} is not in classInd.txt; expected {expected}")
    if number and names.get(number) != label:
        raise PrepareError(f"{where}: {number} is the number of {names.get(number)!r} in classInd.txt, not of {label!r}")
    return Video(f"{label}/{file}", label, (os.path.splitext(file)[0],), (label,))
