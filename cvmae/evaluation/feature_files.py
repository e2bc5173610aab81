"""Files with the features of whole videos: npz files, or the same npz files as records of array_record shards. No pickle.

The features of one video are an .npz with

    features  float32 or float16 [windows, ...]
    start_s, end_s  float64 [windows]  when the first and the last frame of a window is shown, seconds since the first frame
    label     int32 [], -1 unlabeled
    path      str [], the name of the video

`npz`: FOLDER/NAME.npz, NAME being the video's path below the manifest's folder, extension included. `array_record`: each record
of FOLDER/features-00000.array_record holds the bytes of such an .npz, and line r of FOLDER/features-00000.csv, after a header, names
record r (name,label,windows). `FeatureFolder` reads both.
"""

import csv
import io
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping

import grain
import numpy as np

from cvmae.files import replacing

FORMATS = ("npz", "array_record")
SHARD_VIDEOS = 1024
_SHARD, _WAITING = ".array_record", "waiting"


class GrowingFile:
    """An .npz at `path` whose `features`, of a known shape, are written as they come; the rest at the end."""

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
        """Writes the other arrays, and closes the file."""
        self._member.close()
        for name, array in arrays.items():
            with self._archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        self._archive.close()

    def abandon(self) -> None:
        """Deletes what was written."""
        self._member.close()
        self._archive.close()
        self.path.unlink(missing_ok=True)


class NpzFiles:
    """FOLDER/NAME.npz; a file is there whole or not at all."""

    def __init__(self, folder: pathlib.Path, suffix: str = ".npz"):
        self._folder, self._suffix = folder, suffix

    def __contains__(self, name: str) -> bool:
        """Whether the features of this video are there."""
        return self.path(name).exists()

    def names(self) -> list[str]:
        """The videos whose features are there, sorted."""
        found = self._folder.rglob(f"*{self._suffix}")
        return sorted(path.relative_to(self._folder).as_posix().removesuffix(self._suffix) for path in found)

    def path(self, name: str) -> pathlib.Path:
        return self._folder / (name + self._suffix)

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> GrowingFile:
        """A file to write the features of a video into; `add` puts it in its place."""
        path = self.path(name)
        return GrowingFile(path.with_name(f"{path.name}.tmp"), shape, dtype)

    def add(self, name: str, file: GrowingFile) -> None:
        """Takes in a finished file."""
        os.replace(file.path, self.path(name))

    def finish(self) -> None:
        """Says that no other will be added in this run."""


class RecordFiles:
    """Shards of array_record. Until `shard_videos` are there, or the run ends, videos wait as files in FOLDER/waiting.

    A video's features are in memory as a whole while its record is written.
    """

    def __init__(self, folder: pathlib.Path, shard_videos: int = SHARD_VIDEOS):
        self._folder, self._shard_videos = folder, shard_videos
        self._files = NpzFiles(folder / _WAITING, ".waiting")
        self._shards = shards_of(folder)
        self._packed = {name for shard in self._shards for name in names_of(shard)}
        self._waiting = []
        for name in self._files.names():
            if name in self._packed:  # the last run ended between writing the shard and deleting these
                self._files.path(name).unlink()
            else:
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
        shutil.rmtree(self._folder / _WAITING, ignore_errors=True)

    def _pack(self):
        """Writes the names, then the shard that makes them count, and deletes the files in it."""
        from array_record.python.array_record_module import ArrayRecordWriter  # not there on Windows

        shard = self._folder / f"features-{len(self._shards):05d}{_SHARD}"
        lines = []
        with replacing(shard) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")  # one record a group: they are read one by one
            for name in self._waiting:
                content = self._files.path(name).read_bytes()
                writer.write(content)
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    lines.append((name, int(arrays["label"]), len(arrays["start_s"])))
            writer.close()
            _write_names(shard, lines)
        self._shards.append(shard)
        self._packed.update(self._waiting)
        for name in self._waiting:
            self._files.path(name).unlink()
        self._waiting = []


def shards_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob(f"features-*{_SHARD}"))


def names_of(shard: pathlib.Path) -> list[str]:
    """The names of a shard's records, in order."""
    with open(shard.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def _write_names(shard, lines):
    with replacing(shard.with_suffix(".csv")) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "label", "windows"))
        writer.writerows(lines)


def make_files(folder, format: str) -> NpzFiles | RecordFiles:
    """Where features are written to. Raises: ValueError for an unknown format."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    return {"npz": NpzFiles, "array_record": RecordFiles}[format](pathlib.Path(folder))


class FeatureFolder(Mapping):
    """{name of a video: its arrays} of a folder of either format; a video is read when it is asked for."""

    def __init__(self, folder):
        """Raises: FileNotFoundError where the folder holds no features."""
        self._files, shards = NpzFiles(pathlib.Path(folder)), shards_of(pathlib.Path(folder))
        names = [name for shard in shards for name in names_of(shard)] if shards else self._files.names()
        if not names:
            raise FileNotFoundError(f"{folder} holds no features: neither .npz files nor {_SHARD} shards")
        self._places = {name: place for place, name in enumerate(names)}
        self._records = grain.sources.ArrayRecordDataSource([str(shard) for shard in shards]) if shards else None

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        place = self._places[name]
        file = self._files.path(name) if self._records is None else io.BytesIO(self._records[place])
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self):
        return len(self._places)
