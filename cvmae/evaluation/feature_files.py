"""Files of extracted features, one .npz per video; no pickle. See `feature_shards` for many in one file, `feature_folder` to read them.

The features of one video are an .npz with

    features  float32 or float16 [windows, ...]
    start_s, end_s  float64 [windows]  times of the first and the last frame of a window, seconds since the first frame of the video
    label     int32 [], -1 unlabeled; of a source whose videos have several labels int32 [k], the class numbers, [0] for none
    labeled   bool [], with several labels: False if unlabeled, True also for a video that has none of the classes
    path      str [], the name of the video

It is FOLDER/NAME.npz, where NAME is the video's path relative to the manifest's folder, including the extension. A file name
that is too long for a file system is cut and ends with a hash of the full one, which `path` holds. The comment of the zip file says
what it was made from, see `Stored`.
"""

import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Iterable

import numpy as np

from cvmae.data.records import why_outside
from cvmae.evaluation.feature_reading import Expected, check_npz
from cvmae.files import set_aside
from cvmae.interop.arrays import NPZ_ERRORS
from cvmae.storage.cache import open_binary
from cvmae.storage.path import AnyPath
from cvmae.storage.remote_path import RemotePath, Status

TEMPORARY = ".tmp"
NAME_BYTES = 255  # of a file or folder, on nearly every file system
OUTDATED = "outdated"
_HASH = re.compile(r"~[0-9a-f]{16}")
_END, _END_BYTES = b"PK\5\6", 22  # the record at the end of a zip file, after which there is its comment alone


@dataclasses.dataclass(frozen=True)
class Stored:
    """The features that a folder has of a video.

    Attributes:
      windows: their number.
      origin: what they were made from, see `feature_origins`; of an earlier version only what the file says itself.
      damaged: True if the file is empty, cut, changed or not of this format; windows and origin mean nothing then.
    """

    windows: int = 0
    origin: dict = dataclasses.field(default_factory=dict)
    damaged: bool = False

    def to_json(self) -> str:
        """Returns the text that `of_json` reads."""
        return json.dumps({"windows": self.windows, "made_from": self.origin})

    @classmethod
    def of_json(cls, text: str | bytes) -> "Stored":
        """Reads what `to_json` returned. Raises: ValueError."""
        value = json.loads(text)
        if not (isinstance(value, dict) and isinstance(value.get("windows"), int) and isinstance(value.get("made_from"), dict)):
            raise ValueError("it lacks windows and made_from")
        return cls(value["windows"], value["made_from"])


def shortened(name: str, limit: int) -> str:
    """Returns the name of a video with at most `limit` bytes after its last slash: cut, with a hash of what it was at the end."""
    folder, slash, last = name.rpartition("/")
    content = os.fsencode(last)
    if len(content) <= limit:
        return name
    digest = f"~{hashlib.blake2b(content, digest_size=8).hexdigest()}"
    return folder + slash + content[: limit - len(digest)].decode(errors="ignore") + digest


class GrowingFile:
    """An .npz file whose array `features`, of known shape, is written row by row; the other arrays are written at the end."""

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._dtype, self._windows = path, dtype, shape[0]
        self._archive = zipfile.ZipFile(path, "w")
        self._member = self._archive.open("features.npy", "w", force_zip64=True)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._member, header)

    def append(self, values: np.ndarray) -> None:
        """Writes the next rows, [k, ...]."""
        self._member.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def finish(self, origin: dict | None = None, **arrays: np.ndarray) -> None:
        """Writes the other arrays, and what the features were made from, and closes the file."""
        self._member.close()
        if origin is not None:
            self._archive.comment = Stored(self._windows, origin).to_json().encode()
        for name, array in arrays.items():
            with self._archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        self._archive.close()

    def abandon(self) -> None:
        """Closes and deletes the unfinished file."""
        self._member.close()
        self._archive.close()
        self.path.unlink(missing_ok=True)


class NpzFiles:
    """Writer of FOLDER/NAME.npz; a file appears only when it is complete."""

    def __init__(self, folder: AnyPath, suffix: str = ".npz"):
        self._folder, self._suffix, self._numbers = folder, suffix, itertools.count()

    @functools.cached_property
    def _in_bucket(self) -> dict[RemotePath, Status]:
        """The files of a folder in a bucket, which are asked for once; none for a local folder."""
        return self._folder.files() if isinstance(self._folder, RemotePath) else {}

    @functools.cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="cvmae-features-")

    def __contains__(self, name: str) -> bool:
        """Returns True if there is a whole file for this video."""
        stored = self.stored(name)
        return stored is not None and not stored.damaged

    def stored(self, name: str) -> Stored | None:
        """Returns what there is of a video; None without a file. A local file is read once, of one in a bucket the end."""
        path = self.path(name)
        there = path in self._in_bucket if isinstance(path, RemotePath) else os.path.isfile(path)  # False for too long a path
        return self.look(path) if there else None

    def look(self, path: AnyPath) -> Stored:
        """Returns what a file says of itself, if it is whole; of an object in a bucket, which is there as a whole or not, only the end is read."""
        try:
            comment = comment_of(self._end(path))
            stored = Stored.of_json(comment) if comment else _of_arrays(path)
            if not isinstance(path, RemotePath):
                with open(path, "rb") as file:
                    check_npz(file, path, Expected(windows=stored.windows))
            return stored
        except NPZ_ERRORS as error:
            if isinstance(path, RemotePath) and isinstance(error, OSError):
                raise  # a bucket that does not answer says nothing of the file
            return Stored(damaged=True)

    def _end(self, path: AnyPath) -> bytes:
        """Returns the end of a file, as long as the end of a zip file can be."""
        longest = _END_BYTES + 0xFFFF
        if isinstance(path, RemotePath):
            size = self._in_bucket[path].size
            return path.read_range(max(0, size - longest), size)
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - longest))
            return file.read()

    def files(self) -> dict[str, int]:
        """Returns the bytes of every file of features below the folder, by its path relative to it."""
        if isinstance(self._folder, RemotePath):
            sizes = {str(path.relative_to(self._folder)): status.size for path, status in self._folder.files().items()}
            return {path: size for path, size in sizes.items() if path.endswith(self._suffix)}
        paths = self._folder.rglob(f"*{self._suffix}")
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}

    def file_of(self, name: str) -> str:
        """Returns the path of the file of a video, relative to the folder."""
        return self.path(name).as_posix()[len(self._folder.as_posix()) + 1 :]

    def others(self, names: list[str], files: Iterable[str]) -> list[str]:
        """Returns those of `files` that are of videos not among `names`, sorted."""
        return sorted(set(files) - {self.file_of(name) for name in names})

    def put_aside(self, name: str) -> None:
        """Renames the file of a video, whose features are not those of its present row, so that nothing takes it for them."""
        path = self.path(name)
        if path.exists():
            set_aside(path, OUTDATED)

    def names(self) -> list[str]:
        """Returns the names of the videos that have a file, sorted."""
        start = len(self._folder.as_posix()) + 1
        paths: list[AnyPath] = [
            path for path in self._folder.rglob(f"*{self._suffix}") if isinstance(path, RemotePath) or path.is_file()
        ]
        return sorted(self._name(path, path.as_posix()[start:].removesuffix(self._suffix)) for path in paths)

    def path(self, name: str) -> AnyPath:
        """Returns the path of a video's file. Raises: ValueError, it would lie outside of the folder."""
        if why := why_outside(name):
            raise ValueError(f"no file of {self._folder} can have the name {name!r}: it {why}")
        return self._folder / (shortened(name, NAME_BYTES - len(self._suffix + TEMPORARY)) + self._suffix)

    def _name(self, path, name):
        """Returns the name of the video of a file at `path`, whose own name is `name` and may be a shortened one."""
        if not _HASH.search(name):
            return name
        full = video_of(path)
        return full if full and not why_outside(full) and self.path(full) == path else name

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> GrowingFile:
        """Opens a temporary file for the features of a video; `add` renames it once it is finished. Raises: OSError."""
        return GrowingFile(self.temporary(name), shape, dtype)

    def temporary(self, name: str) -> pathlib.Path:
        """Returns the local path at which the file of a video is written. Raises: IsADirectoryError, a folder has its name."""
        path = self.path(name)
        if isinstance(path, RemotePath):
            return pathlib.Path(self._temporary.name) / f"{next(self._numbers)}{TEMPORARY}"
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has its name", str(path))
        return path.with_name(path.name + TEMPORARY)

    def add(self, name: str, file: GrowingFile) -> None:
        """Renames a finished file to its final path, or uploads it to a bucket."""
        self.publish(file.path, self.path(name))

    def publish(self, local: pathlib.Path, path: AnyPath) -> None:
        """Renames a finished file to its path, or uploads it to a bucket."""
        if isinstance(path, RemotePath):
            path.upload(local)
            local.unlink()
        else:
            os.replace(local, path)

    def finish(self) -> None:
        """Ends the run; there is nothing left to write."""


def video_of(path: AnyPath) -> str:
    """Returns the name of the video that a file says it is of; "" for one that is damaged, or written by something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return str(arrays["path"])
    except NPZ_ERRORS:
        return ""


def comment_of(content: bytes) -> bytes:
    """Returns the comment of a zip file, of which `content` is all or the end. Raises: ValueError, it has no end, or is cut."""
    record = content[content.rindex(_END) :]
    if len(record) != _END_BYTES + int.from_bytes(record[_END_BYTES - 2 : _END_BYTES], "little"):
        raise ValueError("it is cut")
    return record[_END_BYTES:]


def _of_arrays(path: AnyPath) -> Stored:
    """Returns what the arrays of an .npz say where it has no comment, that of an earlier version. Raises: OSError, ValueError, KeyError, BadZipFile."""
    with open_binary(str(path)) as file, np.load(file, allow_pickle=False) as arrays:
        label, windows = arrays["label"], len(arrays["start_s"])
        origin: dict = {"path": str(arrays["path"])}
        if not label.ndim:
            origin["label"] = int(label)
        elif len(label):  # an empty one is of a video without a label, or without a class
            origin["label"] = label.tolist()
    return Stored(windows, origin)
