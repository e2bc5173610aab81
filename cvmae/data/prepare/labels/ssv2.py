"""Reader of the label files of Something-Something V2: `labels.json`, `train.json`, `validation.json`, `test.json` and
`test-answers.csv`, the last two if they are there."""

import os
import re

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError, find_file, find_optional, read_json, read_lines

FILES = "labels.json, train.json and validation.json of Something-Something V2"
_TEMPLATES = '{"template": "id", ...} with the ids 0, 1, ...'
_ENTRIES = 'a list of {"id", "label", "template", "placeholders"}, in test.json of {"id"}'
_ANSWERS = "id;template"


def read(labels: str) -> Listing:
    """Returns the listing of all splits. Class numbers are the ids in `labels.json`.

    Args:
      labels: folder with the label files, named as in either of the two releases.

    Raises:
      PrepareError: a file is missing, or an entry is not as published.
    """
    number = _templates(_find(labels, "labels"))
    listing = Listing(tuple(sorted(number, key=number.get)), {"manifest": []})
    for split, name in (("train", "train"), ("val", "validation")):
        path = _find(labels, name)
        videos = ((path, _video(entry, where, _template(entry, where, number))) for entry, where in _entries(path))
        listing.add_list("manifest", split, path, videos, _ENTRIES)
    if tests := _find(labels, "test", optional=True):
        answers = _answers(_find(labels, "test-answers", ".csv", optional=True), number)
        videos = ((tests, _video(entry, where, answers.get(str(entry["id"]), ""))) for entry, where in _entries(tests))
        listing.add_list("manifest", "test", tests, videos, _ENTRIES)
    return listing


def _find(labels, name, extension=".json", optional=False):
    names, within = (f"{name}{extension}", f"something-something-v2-{name}{extension}"), ("labels",)
    return find_optional(labels, names, within) if optional else find_file(labels, names, FILES, within)


def _templates(path):
    """Returns {template: number} of `labels.json`."""
    ids, _ = read_json(path, _TEMPLATES)
    if ids == {}:
        raise PrepareError(f"{path}: it lists no class; expected {_TEMPLATES}")
    if not isinstance(ids, dict) or sorted(map(str, ids.values())) != sorted(map(str, range(len(ids)))):
        raise PrepareError(f"{path}: the ids are not 0, 1, ... each once; expected {_TEMPLATES}")
    return {_bare(template): int(number) for template, number in ids.items()}


def _entries(path):
    """Yields pairs (entry, function that returns its "file:line")."""
    entries, text = read_json(path, _ENTRIES)
    if not isinstance(entries, list):
        raise PrepareError(f"{path}:1: {type(entries).__name__} is not a list; expected {_ENTRIES}")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not str(entry.get("id") or "").strip():
            raise PrepareError(f"{path}: entry {number} has no id; expected {_ENTRIES}")
        yield entry, lambda entry=entry: f"{path}:{_line_of(text, entry['id'])}"


def _template(entry, where, number) -> str:
    template = _bare(entry.get("template"))
    if template not in number:
        raise PrepareError(f"{where()}: template {entry.get('template')!r} is not in labels.json; expected {_ENTRIES}")
    return template


def _line_of(text, identity):
    # The json module does not record lines, so the line is searched for when a message needs it.
    match = re.search(rf'"id"\s*:\s*"?{re.escape(str(identity))}\b', text)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _answers(path, number):
    """Returns {id: template} of the test set."""
    answers = {}
    for where, line in read_lines(path, _ANSWERS) if path else ():
        identity, _, template = line.partition(";")
        if _bare(template) not in number:
            raise PrepareError(f"{where}: {line!r} names no template of labels.json; expected {_ANSWERS}")
        answers[identity.strip()] = _bare(template)
    return answers


def _video(entry, where, label):
    identity = str(entry["id"])
    if os.path.basename(identity) != identity:
        raise PrepareError(f"{where()}: id {identity!r} is no file name; expected {_ENTRIES}")
    return Video(f"{identity}.webm", label, (identity,))


def _bare(template):
    return normal_form(re.sub(r"[\[\]]", "", str(template)))
