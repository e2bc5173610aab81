"""Folder of extracted features as a mapping, and the index of the videos that it holds."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping

import grain
import numpy as np

from cvmae.data.lines import csv_text
from cvmae.evaluation.feature_files import NpzFiles
from cvmae.evaluation.feature_shards import SHARD, Row, read_shard, shards_of
from cvmae.files import replacing
from cvmae.storage.path import AnyPath, as_path, is_remote

INDEX = "index.csv"
_COLUMNS = ("name", "file", "windows")


def write_index(folder: AnyPath, rows: Iterable[tuple[str, str, int]]) -> None:
    """Writes FOLDER/index.csv, which lists the videos of the last run: (name, file below the folder, windows) of each."""
    with (
        replacing(folder / INDEX) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogatepass", newline="") as file,
    ):
        file.write(csv_text([_COLUMNS, *rows]))


def read_index(folder: AnyPath) -> list[str] | None:
    """Returns the names of the videos in the index of a folder; None without an index, as in folders of earlier versions.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with (folder / INDEX).open(encoding="utf-8", errors="surrogatepass", newline="") as file:
            header, *rows = csv.reader(file)
            if tuple(header) == _COLUMNS and all(len(row) == len(_COLUMNS) for row in rows):
                return [row[0] for row in rows]
            why = f"expected lines of {','.join(_COLUMNS)}"
    except FileNotFoundError:
        return None
    except (ValueError, csv.Error) as error:
        why = str(error)
    raise ValueError(
        f"{folder / INDEX} is damaged ({why}): run task=extract again, which writes it, or delete it to read all that is there"
    )


def _rows_of_whole(shard: AnyPath) -> list[Row]:
    """Returns the rows of a shard. Raises: ValueError, it is damaged."""
    rows, why = read_shard(shard)
    if why:
        raise ValueError(
            f"{shard} is damaged ({why}): run task=extract again, which recomputes its videos, or move it away to read the others"
        )
    return rows


class FeatureFolder(Mapping):
    """Mapping {name of a video: its arrays} of a folder of npz files or shards; the arrays of a video are read on access.

    Its videos are those of index.csv, the rows of the last run that have features; without that file, all that lie there.
    """

    def __init__(self, folder):
        """Opens a folder.

        Raises:
          FileNotFoundError: it contains no features.
          ValueError: a shard or the index is damaged, or shards are in a bucket.
        """
        self._files, shards = NpzFiles(as_path(folder)), shards_of(as_path(folder))
        if shards and is_remote(shards[0]):
            raise ValueError(f"{folder} holds {SHARD} shards, which are read from a disk only: copy the folder")
        names = [row.name for shard in shards for row in _rows_of_whole(shard)] if shards else self._files.names()
        # Of a video that was recomputed there are two records for a moment: the later one holds.
        self._positions = {name: position for position, name in enumerate(names) if name}
        listed = read_index(as_path(folder))
        if listed is not None:
            self._positions = {name: self._positions[name] for name in listed if name in self._positions}
        if not self._positions:
            raise FileNotFoundError(f"{folder} holds no features: neither .npz files nor {SHARD} shards")
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
