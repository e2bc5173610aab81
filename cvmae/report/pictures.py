"""The pictures of a workdir, as data that a page holds within itself."""

import base64
import json
import pathlib
from typing import NamedTuple

from cvmae.workdir import CONFUSION, FIGURE_LIST, RECONSTRUCTION

# In the order in which one of several with the same name is taken: a still picture is printed too.
TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
}
MOST_BYTES = 12 << 20
OWN = (
    (RECONSTRUCTION, "reconstruction", "Clips not trained on: the clip, what the encoder saw of it, the reconstruction."),
    (CONFUSION, "confusion", "How often clips of a class are taken for another."),
    ("table.png", "study", "Variants of a study: a dot for each run, their mean and standard deviation over seeds."),
)


class Picture(NamedTuple):
    """A picture or film: what it is of, what to say about it, its file, and its bytes as a data URI."""

    kind: str
    caption: str
    file: str
    source: str

    @property
    def moves(self) -> bool:
        return self.source.startswith("data:video/")


def read_pictures(folder: pathlib.Path, notes: list[str]) -> list[Picture]:
    """The pictures that a run made, and those that `folder`/figures/figures.json lists: [{"file", "kind", "caption"}, ...].

    Of files that differ in their suffix alone one is taken. What cannot be shown becomes a note.
    """
    listed = [(folder / file, kind, caption) for file, kind, caption in OWN if (folder / file).is_file()]
    listed += _read_list(folder / FIGURE_LIST, notes)
    best = {}
    for path, *_ in listed:
        best[path.with_suffix("")] = min(best.get(path.with_suffix(""), path), path, key=_rank)
    chosen = {path: (kind, caption) for path, kind, caption in listed if best[path.with_suffix("")] == path}
    found = [Picture(kind, caption, path.name, _embed(folder, path, notes)) for path, (kind, caption) in chosen.items()]
    return [picture for picture in found if picture.source]


def _rank(path: pathlib.Path) -> int:
    return list(TYPES).index(path.suffix.lower()) if path.suffix.lower() in TYPES else len(TYPES)


def _read_list(path: pathlib.Path, notes: list[str]):
    """(file, kind, caption) of every entry."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [(path.parent / entry["file"], str(entry.get("kind", "")), str(entry.get("caption", ""))) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        notes.append(f'{path.name} cannot be read, expected [{{"file", "kind", "caption"}}, ...]: {error}')
        return []


def _embed(folder: pathlib.Path, path: pathlib.Path, notes: list[str]) -> str:
    """A data URI; '' and a note for what cannot be shown."""
    kind = TYPES.get(path.suffix.lower())
    if not path.resolve().is_relative_to(folder.resolve()):
        notes.append(f"{path.name} is not shown: it lies outside of the workdir")
    elif kind is None:
        notes.append(f"{path.name} is not shown: expected one of {', '.join(TYPES)}")
    elif not path.is_file():
        notes.append(f"{path.name} is not shown: there is no such file")
    elif path.stat().st_size > MOST_BYTES:
        notes.append(f"{path.name} is not shown: {path.stat().st_size >> 20} MiB are more than {MOST_BYTES >> 20}")
    else:
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return ""
