"""Video files below a folder, and the search for the file of a video in a label file."""

import collections
import os
import typing

if typing.TYPE_CHECKING:
    from cvmae.data.prepare.listing import Video

# Containers that FFmpeg reads and that are in common use.
EXTENSIONS = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".vob", ".webm", ".wmv")
)


class FolderError(Exception):
    """A folder of videos cannot be read."""


class VideoFiles:
    """Video files below a folder; links are followed, hidden files and folders are left out.

    Attributes:
      paths: sorted paths relative to the folder, with / as separator.
      odd: names that are not UTF-8, which no manifest can hold, with the bytes escaped.

    Raises:
      FolderError: there is no such folder, or it cannot be read.
    """

    def __init__(self, root: str):
        if not os.path.isdir(root):
            raise FolderError(f"{root}: not a folder")
        paths = list(_walk(root, "", frozenset()))
        self.paths = sorted(path for path in paths if _is_text(path))
        self.odd = sorted(ascii(path) for path in paths if not _is_text(path))
        self._by_stem = collections.defaultdict(list)
        for path in self.paths:
            self._by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)

    def find(self, video: "Video") -> list[str]:
        """Returns the paths that may be this video: several if they match equally well, [] without a match."""
        if not video.stems:
            return [video.name]
        candidates = next((self._by_stem[stem] for stem in video.stems if stem in self._by_stem), [])
        if len(candidates) < 2:
            return candidates
        hints = {_plain(hint) for hint in video.hints}
        scores = {path: len(hints & {_plain(folder) for folder in path.split("/")[:-1]}) for path in candidates}
        return [path for path in candidates if scores[path] == max(scores.values())]


def _walk(root, below, above):
    """Yields relative paths of the videos in root/below. above: real paths of the parents; a link back to one is a loop."""
    folder = os.path.join(root, below)
    identity = os.path.realpath(folder)
    if identity in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}; the folder must be readable") from error
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(root, path, above | {identity})
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            yield path


def _is_text(path):
    # Names that are not UTF-8 come as lone surrogates.
    return path.isprintable() or not any("\ud800" <= c <= "\udfff" for c in path)


def _plain(name):
    return name.replace("_", " ").casefold()
