"""Files of extracted features: npz files, or the same npz files as records of array_record shards. No pickle.

The features of one video are an .npz with

    features  float32 or float16 [windows, ...]
    start_s, end_s  float64 [windows]  times of the first and the last frame of a window, seconds since the first frame of the video
    label     int32 [], -1 unlabeled; of a source whose videos have several labels int32 [k], the class numbers, [0] for none
    labeled   bool [], with several labels: False if unlabeled, True also for a video that has none of the classes
    path      str [], the name of the video

`npz`: FOLDER/NAME.npz, where NAME is the video's path relative to the manifest's folder, including the extension. A file name
that is too long for a file system is cut and ends with a hash of the full one, which `path` holds. `array_record`: each record of FOLDER/features-00000.array_record holds the bytes of such an .npz, and line r of FOLDER/features-00000.csv, after
a header, describes record r (name,label,windows; several labels are separated by `;`). `FeatureFolder` reads both.
"""

import csv
import errno
import functools
import hashlib
import io
import itertools
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping

import grain
import numpy as np

from cvmae.data.label_texts import NONE_OF_THEM
from cvmae.data.lines import csv_text
from cvmae.files import replacing
from cvmae.storage.path import AnyPath, as_path, is_remote
from cvmae.storage.remote_path import RemotePath

SHARD_VIDEOS = 1024
_SHARD, _WAITING = ".array_record", "waiting"
TEMPORARY = ".tmp"
NAME_BYTES = 255  # of a file or folder, on nearly every file system
_HASH = re.compile(r"~[0-9a-f]{16}")


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
        self.path, self._dtype = path, dtype
        self._archive = zipfile.ZipFile(path, "w")
        self._member = self._archive.open("features.npy", "w", force_zip64=True)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._member, header)

    def append(self, values: np.ndarray) -> None:
        """Writes the next rows, [k, ...]."""
        self._member.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def finish(self, **arrays: np.ndarray) -> None:
        """Writes the other arrays and closes the file."""
        self._member.close()
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
    def _in_bucket(self) -> set[AnyPath] | None:
        """The files of a folder in a bucket, which are asked for once; None for a local folder."""
        return set(self._folder.files()) if isinstance(self._folder, RemotePath) else None

    @functools.cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="cvmae-features-")

    def __contains__(self, name: str) -> bool:
        """Returns True if there is a file for this video; a local one that is empty or cut does not count."""
        path = self.path(name)
        if isinstance(path, pathlib.Path):  # False for a path that is too long
            return os.path.isfile(path) and self.is_whole(path)
        return path in (self._in_bucket or ())

    def is_whole(self, path: pathlib.Path) -> bool:
        """Returns True if a local file ends where it should; its values are not read."""
        return zipfile.is_zipfile(path)  # the directory of a zip file is at its end

    def names(self) -> list[str]:
        """Returns the names of the videos that have a file, sorted."""
        start = len(self._folder.as_posix()) + 1
        paths = self._folder.rglob(f"*{self._suffix}")
        return sorted(self._name(path, path.as_posix()[start:].removesuffix(self._suffix)) for path in paths)

    def path(self, name: str) -> AnyPath:
        """Returns the path of a video's file."""
        return self._folder / (shortened(name, NAME_BYTES - len(self._suffix + TEMPORARY)) + self._suffix)

    def _name(self, path, name):
        """Returns the name of the video of a file at `path`, whose own name is `name` and may be a shortened one."""
        if not _HASH.search(name):
            return name
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                full = str(arrays["path"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # written by something else
            return name
        return full if self.path(full) == path else name

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


class RecordFiles:
    """Writer of array_record shards of `shard_videos` videos each; videos of an incomplete shard are files in FOLDER/waiting.

    The features of one video are in memory while its record is written.
    """

    def __init__(self, folder: AnyPath, shard_videos: int = SHARD_VIDEOS):
        self._folder, self._shard_videos = folder, shard_videos
        self._files = NpzFiles(folder / _WAITING, ".waiting")
        self._shards = shards_of(folder)
        self._packed = {name for shard in self._shards for name in names_of(shard)}
        self._waiting = []
        for name in self._files.names():
            if name in self._packed:  # an earlier run was interrupted between writing the shard and deleting its files
                self._files.path(name).unlink()
            elif name in self._files:
                self._waiting.append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._packed or name in self._files

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> GrowingFile:
        return self._files.begin(name, shape, dtype)

    def add(self, name: str, file: GrowingFile) -> None:
        self._files.add(name, file)
        self._waiting.append(name)
        if len(self._waiting) == self._shard_videos:
            self._pack()

    def finish(self) -> None:
        if self._waiting:
            self._pack()
        waiting = self._folder / _WAITING
        if isinstance(waiting, RemotePath):
            waiting.remove_tree()
        else:
            shutil.rmtree(waiting, ignore_errors=True)

    def _pack(self):
        """Writes the waiting videos as a shard and deletes their files. The CSV comes first: a shard without one is never seen."""
        from array_record.python.array_record_module import ArrayRecordWriter  # does not exist on Windows

        shard = self._folder / f"features-{len(self._shards):05d}{_SHARD}"
        lines = []
        with replacing(shard) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")  # for random access to single records
            for name in self._waiting:
                content = self._files.path(name).read_bytes()
                writer.write(content)
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    label = ";".join(map(str, np.atleast_1d(arrays["label"]).tolist()))
                    if not label and bool(arrays["labeled"]):
                        label = NONE_OF_THEM
                    lines.append((name, label, len(arrays["start_s"])))
            writer.close()
            _write_names(shard, lines)
        self._shards.append(shard)
        self._packed.update(self._waiting)
        for name in self._waiting:
            self._files.path(name).unlink()
        self._waiting = []


def shards_of(folder: AnyPath) -> list[AnyPath]:
    """Returns the shards of a folder, in order."""
    return sorted(folder.glob(f"features-*{_SHARD}"))


def names_of(shard: AnyPath) -> list[str]:
    """Returns the names of a shard's records, in order."""
    with shard.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def _write_names(shard, lines):
    with replacing(shard.with_suffix(".csv")) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(csv_text([("name", "label", "windows"), *lines]))


class FeatureFolder(Mapping):
    """Mapping {name of a video: its arrays} of a folder of either format; the arrays of a video are read on access."""

    def __init__(self, folder):
        """Opens a folder. Raises: FileNotFoundError if it contains no features."""
        self._files, shards = NpzFiles(as_path(folder)), shards_of(as_path(folder))
        if shards and is_remote(shards[0]):
            raise ValueError(f"{folder} holds {_SHARD} shards, which are read from a disk only: copy the folder")
        names = [name for shard in shards for name in names_of(shard)] if shards else self._files.names()
        if not names:
            raise FileNotFoundError(f"{folder} holds no features: neither .npz files nor {_SHARD} shards")
        self._positions = {name: position for position, name in enumerate(names)}
        self._records = grain.sources.ArrayRecordDataSource([str(shard) for shard in shards]) if shards else None

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        position = self._positions[name]
        file = self._files.path(name).open("rb") if self._records is None else io.BytesIO(self._records[position])
        with file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self):
        return len(self._positions)
