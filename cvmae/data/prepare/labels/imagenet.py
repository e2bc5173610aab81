"""Reader of ImageNet-1K (ILSVRC 2012): pictures in folders of their class, and the published labels of validation pictures that are not.

train/n01440764/n01440764_10026.JPEG        or ILSVRC/Data/CLS-LOC/train/...: the folder of a class is its WordNet id
val/n01440764/ILSVRC2012_val_00000293.JPEG  or all in val/, with labels in one of the two published forms:
    LOC_val_solution.csv                                     of Kaggle: ImageId,PredictionString
    ILSVRC2012_validation_ground_truth.txt and meta.mat      of the development kit: numbers of its own, and what they mean
"""

import os
import re

from cvmae.data.prepare.labels.matlab import read_structs
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, find_file, find_optional, read_lines, read_table
from cvmae.data.video_files import VideoFiles
from cvmae.storage.cache import open_binary

FILES = "LOC_val_solution.csv, or ILSVRC2012_validation_ground_truth.txt and meta.mat, of ImageNet"
LAYOUTS = "train/nXXXXXXXX/*.JPEG and val/nXXXXXXXX/*.JPEG or val/ILSVRC2012_val_*.JPEG"
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_CSV, _TRUTH, _META, _SYNSETS = (
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    "meta.mat",
    "LOC_synset_mapping.txt",
)
_WITHIN = ("data", "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12/data")  # folders of the published archives
_CLASS = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"ILSVRC2012_(val|test)_\d{8}")
_LEAVES = 1000  # in meta.mat, the classes of WordNet above them follow


def read(files: VideoFiles, labels: str) -> Listing:
    """Returns the listing of all pictures. Class numbers follow the sorted WordNet ids, as published lists of the classes do.

    The ids are those of the folders, and all that a file of `labels` lists. Test pictures have no labels. Pictures that are in no
    folder of a class and have no published name are moved to `files.left_out`.

    Args:
      files: the pictures.
      labels: folder with label files, "" if every picture is in a folder of its class.

    Raises:
      PrepareError: there is no picture, validation pictures have no label, or a file is not as published.
    """
    if not files.paths:
        left_out = files.left_out_text()
        raise PrepareError(
            f"--videos has no picture in it; expected {LAYOUTS}, unpacked from the published tars{left_out and f'; {left_out}'}"
        )
    known, classes = _labels(labels) if labels else ({}, set())
    rows = []
    for path in files.paths:
        membership = _membership(path)
        if membership is None:
            files.left_out.append((path, f"in no folder of a class and not called as published; expected {LAYOUTS}"))
            continue
        split, label = membership
        stem = os.path.splitext(os.path.basename(path))[0]
        if split == "val" and not label:
            label = known.get(stem, "")
            if not label:
                problem = f"{labels} has no label of it" if labels else "it is in no folder of a class"
                raise PrepareError(f"{path}: {problem}; --labels is the folder with {FILES}")
        rows.append((path, label, split))
    listing = Listing(tuple(sorted(classes | {label for _, label, _ in rows if label})), {"manifest": []})
    for path, label, split in rows:
        listing.add("manifest", split, Video(path, label, ()), path)
    if not rows:
        raise PrepareError(f"--videos has no picture of ImageNet in it, only such as {files.paths[0]}; expected {LAYOUTS}")
    return listing


def _membership(path) -> tuple[str, str] | None:
    """Returns the split and the class of a picture, "" for none; None if its path gives no split."""
    *folders, file = path.split("/")
    label = next((folder for folder in reversed(folders) if _CLASS.fullmatch(folder)), "")
    numbered = _NUMBERED.match(file)
    if numbered:
        return numbered[1], "" if numbered[1] == "test" else label
    split = next((SPLITS[folder.lower()] for folder in reversed(folders) if folder.lower() in SPLITS), "train")
    return (split, label) if label or split == "test" else None


def _labels(folder) -> tuple[dict[str, str], set[str]]:
    """Returns {name of a validation picture without suffix: WordNet id}, and the ids of all classes that files list."""
    listed: set[str] = set()
    if synsets := find_optional(folder, (_SYNSETS,), _WITHIN):
        listed = {_wordnet_id(where, line.split()[0], "id and words") for where, line in read_lines(synsets, "id and words")}
    if table := find_optional(folder, (_CSV,), _WITHIN):
        columns = "ImageId,PredictionString"
        rows = read_table(table, columns.split(","), columns)
        known = {row["ImageId"]: _wordnet_id(where, (row["PredictionString"].split() or [""])[0], columns) for where, row in rows}
        return known, listed | set(known.values())
    truth = find_optional(folder, (_TRUTH,), _WITHIN)
    if not truth:
        if listed:
            return {}, listed
        expected = f"{FILES}; leave it out where all pictures are in folders of their class"
        find_file(folder, (_CSV, _TRUTH), expected, _WITHIN)  # raises
    ids = _meta(find_file(folder, (_META,), FILES, _WITHIN))
    known = {}
    for where, line in read_lines(truth, "a number of meta.mat on each line"):
        if not line.isascii() or not line.isdigit() or int(line) not in ids:
            raise PrepareError(f"{where}: {line[:40]!r} is no ILSVRC2012_ID of meta.mat; expected one number on each line")
        known[f"ILSVRC2012_val_{len(known) + 1:08d}"] = ids[int(line)]
    return known, listed | set(ids.values())


def _wordnet_id(where, text, expected) -> str:
    if not _CLASS.fullmatch(text):
        raise PrepareError(f"{where}: {text[:40]!r} is no WordNet id such as n01440764; expected {expected}")
    return text


def _meta(path) -> dict[int, str]:
    """Returns the WordNet id of each number, ILSVRC2012_ID, of the classes of the challenge, which are not in the order of the ids."""
    try:
        with open_binary(path) as file:
            synsets = read_structs(file.read(), "synsets")
    except (OSError, ValueError) as error:
        raise PrepareError(
            f"{path}: no list of synsets ({error}); expected meta.mat of the development kit of ILSVRC 2012"
        ) from error
    ids = {}
    for synset in synsets:
        number, wnid = synset.get("ILSVRC2012_ID"), synset.get("WNID")
        if not isinstance(number, float) or not number.is_integer() or number < 1:
            raise PrepareError(f"{path}: ILSVRC2012_ID {str(number)[:40]} is no number; expected meta.mat of the development kit")
        if number <= _LEAVES:
            ids[int(number)] = _wordnet_id(path, str(wnid), "meta.mat of the development kit")
    return ids
