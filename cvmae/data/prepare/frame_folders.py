"""Videos that are published as folders of numbered pictures, `ID/00001.jpg`, as Jester is."""

import os
import re

from cvmae.data.lines import alike
from cvmae.data.prepare.listing import Video
from cvmae.data.video_files import PICTURES, FolderError

FPS = 12  # of 20BN's data sets, at which their frames were taken; files do not record it
_FRAME = "%05d.jpg"
_PICTURES = (*PICTURES, ".gif")
_NUMBERED = re.compile(r"(?:(?!00000)[0-9]{5}|[1-9][0-9]{5,})\.jpg")


class FrameFolders:
    """Folders of frames below a folder; it has the members of `VideoFiles` that a run reads.

    Attributes:
      paths: sorted paths of the folders, relative to `root`.
      odd, left_out: empty; a folder that no label file lists is not looked into.
    """

    def __init__(self, root: str, below: str):
        self._by_name = {name: f"{below}/{name}" if below else name for name in _folders(os.path.join(root, below))}
        self.paths = sorted(self._by_name.values())
        self.odd: list[str] = []
        self.left_out: list[tuple[str, str]] = []

    def find(self, video: Video) -> list[str]:
        """Returns the path of the folder of a video, or []."""
        return [self._by_name[stem] for stem in video.stems if stem in self._by_name][:1]

    def missing(self, video: Video) -> str:
        """Returns what is not there of a video that is not found."""
        folders = " and ".join(f"{stem}/" for stem in video.stems)
        why = next(filter(None, (alike(stem, self._by_name) for stem in video.stems)), "") or (
            "videos are read by folders of frames, as others are there, and files beside them are not"
        )
        return f"--videos lacks {folders}; {why}"


def open_folders(root: str) -> FrameFolders | None:
    """Returns the folders of frames in a folder or in one of its subfolders; None without any.

    Raises: FolderError if a folder cannot be read.
    """
    for below in ("", *_folders(root)):
        if any(os.path.isfile(frame_path(os.path.join(root, below, name), 1)) for name in _folders(os.path.join(root, below))):
            return FrameFolders(root, below)
    return None


def frame_path(folder: str, number: int) -> str:
    """Returns the path of a frame, whose numbers count from 1."""
    return os.path.join(folder, _FRAME % number)


def frame_paths(folder: str) -> list[str]:
    """Returns the paths of the frames of a folder in order.

    Raises: ValueError without a frame, where a number is missing, or where a picture is no frame.
    """
    names = {name for name in os.listdir(folder) if name.lower().endswith(_PICTURES) and not name.startswith(".")}
    if not names:
        raise ValueError("the folder has no frames")
    others = sorted(name for name in names if not _NUMBERED.fullmatch(name))
    if others:
        raise ValueError(f"{others[0]} is no frame, which are numbered from {_FRAME % 1} on: move it away, or rename the frames")
    last = max(int(name.removesuffix(".jpg")) for name in names)
    missing = next((number for number in range(1, last + 1) if _FRAME % number not in names), None)
    if missing:
        raise ValueError(f"{_FRAME % missing} is missing")
    return [frame_path(folder, number) for number in range(1, last + 1)]


def folder_identity(folder: str) -> list[int]:
    """Returns [bytes, newest modification time in ns] of a folder and its files, by which a changed one is recognized.

    A file that was renamed has its own time still, and the folder another.
    """
    files = [entry.stat() for entry in os.scandir(folder) if entry.is_file()]
    return [sum(file.st_size for file in files), max(entry.st_mtime_ns for entry in (os.stat(folder), *files))]


def _folders(folder) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}; the folder must be readable") from error
