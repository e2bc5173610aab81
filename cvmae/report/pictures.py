"""Figures of a workdir as data URIs, to embed in a page."""

import base64
import json
import pathlib
from typing import NamedTuple

from cvmae.workdir import CONFUSION, FIGURE_LIST, RECONSTRUCTION

# Of files whose names differ only in the suffix, the first type in this order is shown: still images can be printed.
TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
}
MAX_BYTES = 12 << 20
OWN = (
    (RECONSTRUCTION, "reconstruction", "Held-out clips: the clip, the masked clip, the reconstruction."),
    (CONFUSION, "confusion", "Confusion matrix: the fraction of each class predicted as each other class."),
    ("table.png", "study", "Variants of a study: a dot for each run, mean and standard deviation over seeds."),
)


class Picture(NamedTuple):
    """An image or a video.

    Attributes:
      kind: the kind of figure, such as `clip` or `retrieval`; see `page.TITLES`.
      caption: the caption.
      file: the name of the file.
      source: a data URI of its bytes.
    """

    kind: str
    caption: str
    file: str
    source: str

    @property
    def is_video(self) -> bool:
        """True for a video, False for an image."""
        return self.source.startswith("data:video/")


def read_pictures(folder: pathlib.Path, notes: list[str]) -> list[Picture]:
    """Reads the figures of a run, and those that `folder`/figures/figures.json lists: [{"file", "kind", "caption"}, ...].

    Of files whose names differ only in the suffix one is taken. Files that cannot be shown become notes.
    """
    listed = [(folder / file, kind, caption) for file, kind, caption in OWN if (folder / file).is_file()]
    listed += _read_list(folder / FIGURE_LIST, notes)
    best: dict[pathlib.Path, pathlib.Path] = {}
    for path, *_ in listed:
        best[path.with_suffix("")] = min(best.get(path.with_suffix(""), path), path, key=_rank)
    chosen = {path: (kind, caption) for path, kind, caption in listed if best[path.with_suffix("")] == path}
    pictures = [Picture(kind, caption, path.name, _embed(folder, path, notes)) for path, (kind, caption) in chosen.items()]
    return [picture for picture in pictures if picture.source]


def _rank(path: pathlib.Path) -> int:
    return list(TYPES).index(path.suffix.lower()) if path.suffix.lower() in TYPES else len(TYPES)


def _read_list(path: pathlib.Path, notes: list[str]) -> list[tuple[pathlib.Path, str, str]]:
    """Reads (path, kind, caption) of every entry of figures.json."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [(path.parent / entry["file"], str(entry.get("kind", "")), str(entry.get("caption", ""))) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        notes.append(f'{path.name} cannot be read, expected [{{"file", "kind", "caption"}}, ...]: {error}')
        return []


def _embed(folder: pathlib.Path, path: pathlib.Path, notes: list[str]) -> str:
    """Encodes a file as a data URI; adds a note and returns '' if it cannot be shown."""
    media_type = TYPES.get(path.suffix.lower())
    if not path.resolve().is_relative_to(folder.resolve()):
        notes.append(f"{path.name} is not shown: it is outside of the workdir")
    elif media_type is None:
        notes.append(f"{path.name} is not shown: expected one of {', '.join(TYPES)}")
    elif not path.is_file():
        notes.append(f"{path.name} is not shown: there is no such file")
    elif path.stat().st_size > MAX_BYTES:
        notes.append(f"{path.name} is not shown: its {path.stat().st_size >> 20} MiB exceed {MAX_BYTES >> 20}")
    else:
        return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return ""
