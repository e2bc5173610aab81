"""Video files below a folder, and the search for the file of a video in a label file."""

import collections
import errno
import os
import typing

from cvmae.data.lines import alike, composed, one_line
from cvmae.data.probe import PICTURE, no_video
from cvmae.storage.path import check_regular, is_remote
from cvmae.storage.remote_path import RemotePath

if typing.TYPE_CHECKING:
    from cvmae.data.prepare.listing import Video

# Suffixes are a hint. These are taken for videos without a look, and go first where a label file names no suffix.
EXTENSIONS = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".vob", ".webm", ".wmv")
)
# These are taken for pictures without a look, where pictures are wanted.
PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
# These are left out without a look, since folders of videos may have a great many of them. All other files are opened.
_NO_VIDEOS = {
    "a text or table": ".ass .csv .htm .html .ini .json .jsonl .log .md .md5 .ndjson .nfo .pdf .sha256 .srt .tsv .txt .vtt .xml .yaml .yml",
    PICTURE: ".bmp .heic .jpeg .jpg .png .svg .tif .tiff",
    "sound": ".aac .flac .m4a .mp3 .opus .wav .wma",
    "an archive or arrays": ".7z .arrow .bz2 .gz .h5 .hdf5 .npy .npz .parquet .pkl .pt .pth .rar .safetensors .tar .tgz .xz .zip",
    "code": ".c .cpp .h .ipynb .py .sh",
    "a playlist": ".ffconcat .m3u .m3u8 .pls .sdp",  # FFmpeg would follow it to other files
    "an unfinished download": ".crdownload .part .tmp",
}
_REASONS = {suffix: f"{suffix} is {kind}" for kind, suffixes in _NO_VIDEOS.items() for suffix in suffixes.split()}


_SHOWN = 5  # files left out that a message names


def is_picture(name: str) -> bool:
    """Returns True if the suffix of a file's name is that of a picture."""
    return _suffix(name) in PICTURES


class FolderError(Exception):
    """A folder of videos cannot be read."""


class VideoFiles:
    """Video files below a folder, also of a bucket, and pictures if wanted; links are followed, hidden files and folders are left out.

    A file whose suffix is neither one of common videos nor one of other common files is opened: its content decides.

    Args:
      root: the folder.
      pictures: True takes pictures too, each a video of one frame; False leaves them out, such as the thumbnails of videos.

    Attributes:
      paths: sorted paths relative to the folder, with / as separator.
      odd: names that are not UTF-8, which no manifest can hold, with the bytes escaped.
      left_out: sorted pairs (relative path, reason) of the files that are not taken.
      has_pictures: True if there are pictures among `left_out`.

    Raises:
      FolderError: there is no such folder, or it cannot be read.
    """

    def __init__(self, root: str, pictures: bool = False):
        if is_remote(root):
            reasons = dict(_list(RemotePath(root), pictures))
        elif not os.path.isdir(root):
            raise FolderError(f"{root}: not a folder")
        else:
            reasons = dict(_walk(root, "", frozenset(), pictures))
        paths = [path for path, reason in reasons.items() if not reason]
        self.paths = sorted(path for path in paths if _is_text(path))
        self.odd = sorted(ascii(path) for path in paths if not _is_text(path))
        left_out = [(path, reason) for path, reason in reasons.items() if reason]
        self.left_out = sorted((path if _is_text(path) else ascii(path), reason) for path, reason in left_out)
        self.has_pictures = any(reason == PICTURE or _suffix(path) in PICTURES for path, reason in left_out)
        self._by_stem = collections.defaultdict(list)
        for path in self.paths:
            self._by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)

    def find(self, video: "Video") -> list[str]:
        """Returns the paths that may be this video: several if they match equally well, [] without a match."""
        if not video.stems:
            return [video.name]
        candidates = next((self._by_stem[stem] for stem in video.stems if stem in self._by_stem), [])
        candidates = [path for path in candidates if _suffix(path) in EXTENSIONS] or candidates
        if len(candidates) < 2:
            return candidates
        hints = {_plain(hint) for hint in video.hints}
        scores = {path: len(hints & {_plain(folder) for folder in path.split("/")[:-1]}) for path in candidates}
        return [path for path in candidates if scores[path] == max(scores.values())]

    def missing(self, video: "Video") -> str:
        """Returns what is not there of a video that is not found."""
        others = next(filter(None, (alike(stem, self._by_stem) for stem in video.stems)), "")
        return f"--videos lacks all of {', '.join(f'{stem}.*' for stem in video.stems)}{others and f'; {others}'}"

    def left_out_text(self) -> str:
        """Returns the number of the files that are left out, and the first few with their reasons; "" without any."""
        if not self.left_out:
            return ""
        shown = "; ".join(f"{one_line(path)} ({reason})" for path, reason in self.left_out[:_SHOWN])
        return f"{len(self.left_out):,} left out: {shown}{'; ...' if len(self.left_out) > _SHOWN else ''}"


def _list(root: RemotePath, pictures: bool):
    """Yields the pairs of `_walk` for the objects below a folder of a bucket, where there are neither links nor empty folders."""
    try:
        files = root.files()
    except OSError as error:
        raise FolderError(f"{root}: {error.strerror}") from error
    if not files:
        raise FolderError(f"{root}: no such folder, or nothing lies in it")
    for file in files:
        path = file.relative_to(root)
        if any(part.startswith(".") for part in path.parts):
            if _suffix(path.name) in EXTENSIONS and not path.name.startswith("._"):
                yield path.as_posix(), "hidden, its name begins with a dot"
        elif _suffix(path.name) in EXTENSIONS or (pictures and _suffix(path.name) in PICTURES):
            yield path.as_posix(), ""
        else:
            reason = _REASONS.get(_suffix(path.name)) or no_video(str(file))
            yield path.as_posix(), "" if pictures and reason == PICTURE else reason


def _walk(root, below, above, pictures):
    """Yields (relative path, "" or the reason why it is left out) of the files and empty folders in root/below.

    above: real paths of the parents; a link back to one is a loop.
    """
    folder = os.path.join(root, below)
    identity = os.path.realpath(folder)
    if identity in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}; the folder must be readable") from error
    if below and all(entry.name.startswith(".") for entry in entries):
        yield f"{below}/", "an empty folder"
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name.startswith("."):
            # Not even named: folders and files of the system, of which there is one beside each file on some disks (._a.mp4).
            is_named = _suffix(path) in EXTENSIONS and not entry.name.startswith("._")
            if is_named and (_is_loop(entry) or not entry.is_dir()):
                yield path, "hidden, its name begins with a dot"
        elif _is_loop(entry):
            yield path, "a link that leads back to itself"
        elif entry.is_dir():
            yield from _walk(root, path, above | {identity}, pictures)
        elif reason := _no_file(entry):
            yield path, reason
        elif _suffix(path) in EXTENSIONS or (pictures and _suffix(path) in PICTURES):
            yield path, ""
        elif entry.is_file():
            reason = _REASONS.get(_suffix(path)) or no_video(entry.path)
            yield path, "" if pictures and reason == PICTURE else reason
        else:
            yield path, "no file that can be opened, such as a broken link"


def _no_file(entry) -> str:
    """Returns the reason why an entry is no file, such as a named pipe; "" for a file, and for a link without a target."""
    if entry.is_file():  # without a look at the file, but for links
        return ""
    try:
        check_regular(entry.path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_loop(entry):
    """Returns True for a link whose way never ends, by which the system's questions about it fail."""
    try:
        entry.is_dir()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def alike_there(path: str) -> str:
    """Returns the text of `alike` about a local path that is not there, or the first folder on its way; "" if no name there is like it."""
    folder, name = os.path.split(os.path.abspath(path))
    while folder != os.path.dirname(folder) and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    try:
        return alike(name, os.listdir(folder)) if not name.isascii() else ""
    except OSError:
        return ""


def _suffix(path):
    return os.path.splitext(path)[1].lower()


def _is_text(path):
    # Names that are not UTF-8 come as lone surrogates.
    return path.isprintable() or not any("\ud800" <= c <= "\udfff" for c in path)


def _plain(name):
    return composed(name).replace("_", " ").casefold()
