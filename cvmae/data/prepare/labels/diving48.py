"""Reader of the label files of Diving48, version 2: `Diving48_vocab.json`, `Diving48_V2_train.json` and `Diving48_V2_test.json`."""

import json
import os

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, find_file, read_json

FILES = "Diving48_vocab.json, Diving48_V2_train.json and Diving48_V2_test.json"
_VOCABULARY = 'a list of dives, each a list of words such as ["Back", "15som", "05Twis", "FREE"]'
_ENTRIES = 'a list of {"vid_name", "label", "start_frame", "end_frame"}, with the number of the dive in the vocabulary as label'


def read(labels: str) -> Listing:
    """Returns the listing of both splits. Class numbers are places in the vocabulary; names are its words, with spaces.

    Published files are cut to the dive: `start_frame` is 0 and `end_frame` their length, so neither is a part to use.

    Args:
      labels: folder with the label files.

    Raises:
      PrepareError: a file is missing, an entry is not as published, or one begins after the first frame of its file.
    """
    classes = _vocabulary(find_file(labels, ("Diving48_vocab.json",), FILES, ("annotations",)))
    listing = Listing(classes, {"manifest": []})
    for split in ("train", "test"):
        path = find_file(labels, (f"Diving48_V2_{split}.json",), FILES, ("annotations",))
        entries, _ = read_json(path, _ENTRIES)
        if not isinstance(entries, list):
            raise PrepareError(f"{path}:1: {type(entries).__name__} is not a list; expected {_ENTRIES}")
        videos = ((path, _video(f"{path}: entry {number}", entry, classes)) for number, entry in enumerate(entries, 1))
        listing.add_list("manifest", split, path, videos, _ENTRIES)
    return listing


def _vocabulary(path) -> tuple[str, ...]:
    dives, _ = read_json(path, _VOCABULARY)
    if not isinstance(dives, list) or not dives:
        raise PrepareError(f"{path}: no list of dives; expected {_VOCABULARY}")
    names = []
    for number, words in enumerate(dives):
        if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise PrepareError(f"{path}: dive {number} is {str(words)[:40]!r}; expected {_VOCABULARY}")
        names.append(" ".join(map(normal_form, words)))
        if names[-1] in names[:-1]:
            raise PrepareError(f"{path}: dive {number}, {names[-1]}, is there twice; expected {_VOCABULARY}")
    return tuple(names)


def _video(where, entry, classes) -> Video:
    name = entry.get("vid_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or os.path.basename(name) != name:
        raise PrepareError(f"{where}: vid_name {str(name)[:40]!r} is no file name; expected {_ENTRIES}")
    label, start, end = (entry.get(field) for field in ("label", "start_frame", "end_frame"))
    if type(label) is not int or not 0 <= label < len(classes):
        raise PrepareError(
            f"{where}, {name}: label {json.dumps(label)[:40]} is no whole number of a dive, 0 to {len(classes) - 1}; expected {_ENTRIES}"
        )
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise PrepareError(
            f"{where}, {name}: start_frame {json.dumps(start)[:40]} and end_frame {json.dumps(end)[:40]} are no frames, the first less than the "
            f"second; expected {_ENTRIES}"
        )
    if start:
        raise PrepareError(
            f"{where}, {name}: start_frame is {start}, but published files begin with the dive; cut it, and write 0"
        )
    return Video(f"{name}.mp4", classes[label], (name,))
