"""Folder of extracted features as a mapping, and the index of the videos that it holds."""

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, NamedTuple

import grain
import numpy as np

from cvmae.data.lines import composed, csv_text
from cvmae.data.records import why_outside
from cvmae.evaluation.feature_cache import SHARD_NAME
from cvmae.evaluation.feature_files import NpzFiles, video_of
from cvmae.evaluation.feature_identity import IDENTITY, digest_of
from cvmae.evaluation.feature_reading import Expected, FeatureError, made_by, read_npz
from cvmae.evaluation.feature_shards import SHARD, Row, read_shard, shards_of
from cvmae.evaluation.feature_tables import TableError, read_table, whole_number
from cvmae.files import replacing
from cvmae.storage.path import AnyPath, as_path, is_remote

INDEX = "index.csv"
_COLUMNS = ("name", "file", "windows")
_STAMP = "video"  # which indices of earlier versions lack


def write_index(folder: AnyPath, rows: Iterable[tuple[str, str, int, str]]) -> None:
    """Writes FOLDER/index.csv, which lists the videos of the last run: (name, file below the folder, windows, stamp of the video) of each."""
    with (
        replacing(folder / INDEX) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogatepass", newline="") as file,
    ):
        file.write(csv_text([(*_COLUMNS, _STAMP), *rows]))


class _Listed(NamedTuple):
    """A row of an index: the features that a video should have, and their file, relative to the folder."""

    expected: Expected
    file: str


def read_index(folder: AnyPath) -> dict[str, _Listed] | None:
    """Returns the rows of the index of a folder by the name of the video; None without an index, as in folders of earlier versions.

    Raises:
      FeatureError: the file is damaged.
    """
    try:
        listed: dict[str, _Listed] = {}
        for where, row in read_table(folder / INDEX, _COLUMNS):
            name = row["name"]
            expected = Expected(name, whole_number(where, row, "windows"), stamp=row.get(_STAMP, "").strip())
            if listed.setdefault(name, _Listed(expected, row["file"])) != (expected, row["file"]):
                raise TableError(f"{where}: {name} is there twice, with other values")
        return listed
    except FileNotFoundError:
        return None
    except TableError as error:
        raise FeatureError(
            f"{folder / INDEX} is damaged ({error}): run task=extract again, which writes it, or delete it to read all that is there"
        ) from error


def _rows_of_whole(shard: AnyPath) -> list[Row]:
    """Returns the rows of a shard. Raises: FeatureError, it is damaged."""
    rows, why = read_shard(shard)
    if why:
        raise FeatureError(
            f"{shard} is damaged ({why}): run task=extract again, which recomputes its videos, or move it away to read the others"
        )
    return rows


def _is_other(path: AnyPath, name: str) -> bool:
    """Returns True for a shard of the cache of task=knn or task=retrieval, and for what macOS puts beside files: they name no video."""
    return bool(SHARD_NAME.fullmatch(name) or path.name.startswith("._")) and not video_of(path)


def _why_empty(root: AnyPath) -> str:
    """Returns why a folder has no features of videos, and what to do."""
    if not root.is_dir():
        return "is not there: give the folder of features"
    if any(SHARD_NAME.fullmatch(path.stem) for path in root.rglob("*.npz")):
        return (
            "is the cache of task=knn or task=retrieval, rows of clips without the names of their videos: task=extract writes features by "
            "video, in a --workdir of its own"
        )
    if next(iter(root.glob("*.npy")), None):
        return (
            "holds .npy files, as config.extract.format=npy writes them for heads of temporal localization: read those with np.load, or "
            "extract with format=npz in another --workdir"
        )
    if (root / "features").is_dir():
        return f"holds no features: give {root / 'features'}"
    return f"holds no features: neither .npz files nor {SHARD} shards"


class FeatureFolder(Mapping):
    """Mapping {name of a video: its arrays} of a folder of npz files or shards; the arrays of a video are read on access.

    Its videos are those of index.csv, the rows of the last run that have features; without that file, all that lie there. Access raises
    FeatureError, a ValueError, for features that are damaged, of another video or another encoder, or listed in index.csv and not there,
    and KeyError for a name that the folder lacks.
    """

    def __init__(self, folder):
        """Opens a folder.

        Raises:
          FileNotFoundError: it contains no features.
          FeatureError: a shard, the index or identity.json is damaged, it is no folder, or lies above or below one of features. ValueError: shards are in a bucket.
        """
        root = as_path(folder)
        if not is_remote(root) and root.is_file():
            raise FeatureError(f"{folder} is a file: give the folder of features that it lies in")
        self._root, self._files, shards = root, NpzFiles(root), shards_of(root)
        if shards and is_remote(shards[0]):
            raise ValueError(f"{folder} holds {SHARD} shards, which are read from a disk only: copy the folder")
        listed = read_index(root)
        rows = [(row.name, shard) for shard in shards for row in _rows_of_whole(shard)]
        names = [name for name, _ in rows] if shards else self._names_of_files(listed)
        if shards and listed is None:
            self._check_unlisted(rows)
        self._shards = [shard for _, shard in rows]
        # Of a video that was recomputed there are two records for a moment: the later one holds.
        self._positions: dict[str, int | None] = {name: position for position, name in enumerate(names) if name}
        if listed is not None:
            self._positions = {name: self._positions.get(name) for name in listed}
        self._index, self._listed = root / INDEX, listed
        if all(position is None for position in self._positions.values()):
            if listed is not None and (names or self._files.files()):
                raise FeatureError(
                    f"{self._index} lists nothing of what is there: run task=extract again, which writes it, or delete it to read all"
                )
            raise FileNotFoundError(f"{folder} {_why_empty(root)}")
        self._encoder = digest_of(root)  # where it has none, that of the first features that are read
        self._records = grain.sources.ArrayRecordDataSource([str(shard) for shard in shards]) if shards else None

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        position = self._positions[name]
        if position is None:
            raise FeatureError(
                f"{self._index} lists {name}, and its features are not there: run task=extract again, which makes them and the list"
            )
        # Without an index files may lie in another folder than they were written to.
        expected = (self._listed[name].expected if self._listed else Expected())._replace(encoder=self._encoder)
        if self._records is None:
            path = self._files.path(name)
            if self._listed and self._listed[name].file != self._files.file_of(name):
                raise FeatureError(
                    f"{self._index} lists {name} with the file {self._listed[name].file}, and its own is {self._files.file_of(name)}: run "
                    "task=extract again, which writes the list"
                )
            with path.open("rb") as file:
                return self._read(file, path, name, expected)
        where = f"{self._shards[position]}, record of {name},"
        try:
            content = self._records[position]
        except RuntimeError as error:  # array_record's, of a record with another checksum
            raise FeatureError.of(where, str(error).partition(";")[0]) from error
        return self._read(io.BytesIO(content), where, name, expected._replace(video=name))

    def _read(self, file: BinaryIO, where: object, name: str, expected: Expected) -> dict[str, np.ndarray]:
        """Returns the arrays of an open .npz. Raises: FeatureError, it is damaged, or of another video or encoder."""
        arrays = read_npz(file, where, expected)
        self._check_name(where, name, str(arrays["path"]))
        if not self._encoder:
            file.seek(0)
            self._encoder = made_by(file)
        return arrays

    def _names_of_files(self, listed: Iterable[str] | None) -> list[str]:
        """Returns the videos with an .npz; of those of an index no file is opened, as where a shortened name hides the full one."""
        if listed is None:
            return self._all_names()
        there = self._files.files()
        return [name for name in listed if not why_outside(name) and self._files.file_of(name) in there]

    def _all_names(self) -> list[str]:
        """Returns the videos of all files below the folder. Raises: FeatureError, the folder is above or below that of the features.

        Opened are the first file, and that of every folder in it that is one of features as well.
        """
        names = [name for name in self._files.names() if not _is_other(self._files.path(name), name)]
        tops = {name.partition("/")[0]: name for name in reversed(names) if "/" in name}
        inner = [name for top, name in tops.items() if (self._root / top / IDENTITY).exists()]
        for name in names[:1] + inner:
            path = self._files.path(name)
            if video := video_of(path):
                self._check_name(path, name, video)
        return names

    def _check_unlisted(self, rows: list[tuple[str, AnyPath]]) -> None:
        """Raises FeatureError where, without an index, a video of shards has features in two of them, or others are in .npz files."""
        first: dict[str, AnyPath] = {}
        for name, shard in rows:
            if name and first.setdefault(name, shard) != shard:
                raise FeatureError(
                    f"{first[name]} and {shard.name} both have features of {name}: run task=extract again, or move one of the two away"
                )
        if names := self._all_names():
            raise FeatureError(
                f"{self._root} holds {SHARD} shards and .npz files such as {names[0]}.npz: move one of the two away"
            )

    def _check_name(self, where: object, name: str, video: str) -> None:
        """Raises FeatureError where a file does not lie where its video's name says; file systems may write accents otherwise."""
        if composed(video) == composed(name):
            return
        own = "" if why_outside(video) else self._files.file_of(video)
        root = str(where).removesuffix(own).removesuffix("/")
        remedy = "give it that name, or run task=extract again"
        if own and f"{root}/{own}" == str(where):
            copied = "; if it was copied into this one, move it away" if root.startswith(f"{self._root}/") else ""
            remedy = f"give the folder {root}{copied}"
        raise FeatureError(f"{where} holds the features of {video!r}, and is {name!r} of {self._root}: {remedy}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self):
        return len(self._positions)
