"""Features of many videos in one file: the .npz of each is a record of FOLDER/features-00000.array_record.

A line of FOLDER/features-00000.csv, after a header, describes a record: name, label (several are separated by `;`), windows, made_from,
what it was made from as JSON, and record, its number from 0. Shards of earlier versions lack the last two, and their line r is of record r. A record whose features were recomputed has no name; its
features are in a later shard. A shard that is damaged as a whole, or whose CSV is, is set aside as a file *.damaged before anything is
written; of one in which single records are damaged the others stay.
"""

import io
import json
import pathlib
import shutil
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cvmae.data.lines import csv_text
from cvmae.data.record_writer import RecordWriter
from cvmae.evaluation.feature_files import GrowingFile, NpzFiles, Stored, comment_of
from cvmae.evaluation.feature_origins import label_text
from cvmae.evaluation.feature_reading import Expected, FeatureError, check_npz
from cvmae.evaluation.feature_tables import TableError, read_table, whole_number
from cvmae.files import replacing, set_aside
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath
from cvmae.storage.remote_path import RemotePath

SHARD_VIDEOS = 1024
SHARD = ".array_record"
_WAITING = "waiting"
_SMALLEST = 1 << 16  # bytes; array_record refuses files below


class Row(NamedTuple):
    """A record of a shard, as the columns of its CSV; `name` is empty where the record is outdated."""

    name: str
    label: str
    windows: str
    made_from: str = ""
    record: str = ""

    def stored(self) -> Stored:
        """Returns what the row says of its features; of one of an earlier version its label alone, as `label_text`."""
        try:
            origin = json.loads(self.made_from) if self.made_from else {"label_text": self.label}
            return Stored(int(self.windows), origin)
        except ValueError:
            return Stored(damaged=True)


class _Packed(NamedTuple):
    """The place of the features of a video: the shard, the number of the record in it, and its row."""

    shard: AnyPath
    number: int
    row: Row


class RecordFiles:
    """Writer of array_record shards of `shard_videos` videos each; videos of an incomplete shard are files in FOLDER/waiting.

    The features of one video are in memory while its record is written. One process alone may write.
    """

    def __init__(self, folder: AnyPath, shard_videos: int = SHARD_VIDEOS):
        self._folder, self._shard_videos = folder, shard_videos
        self._files = NpzFiles(folder / _WAITING, ".waiting")
        self._lost: set[str] = set()  # the videos of shards that were set aside
        self._checks = RecordChecks()
        self._rows = self._whole_shards()
        # The newest row of a video. An earlier run may have been interrupted between writing it and erasing the name of the older one.
        self._packed: dict[str, _Packed] = {}
        for shard in self._rows:
            self._packed |= self._records_of(shard)
        self._erase_names()
        self._waiting: dict[str, None] = {}  # a dict for its order
        for name in self._files.names():
            stored = self._files.stored(name) or Stored(damaged=True)
            if name in self._packed and (stored.damaged or self._is_packed(name, stored)):
                self._files.path(name).unlink()
            elif not stored.damaged:
                self._waiting[name] = None

    def _whole_shards(self) -> dict[AnyPath, list[Row]]:
        """Returns the rows of every whole shard, and sets the others aside, with a line for each."""
        rows_by_shard = {}
        for shard in shards_of(self._folder):
            rows, why = read_shard(shard)
            if not why:
                rows_by_shard[shard] = rows
                continue
            self._lost |= {row.name for row in rows if row.name}
            new = set_aside(shard)
            if shard.with_suffix(".csv").exists():
                set_aside(shard.with_suffix(".csv"))
            processes.log_once(f"{shard} is damaged ({why}): set aside as {new.name}; the features of its videos are recomputed")
        return rows_by_shard

    def _records_of(self, shard: AnyPath) -> dict[str, _Packed]:
        """Returns where the features of the videos of a shard are, those without erased names."""
        return {row.name: _Packed(shard, number, row) for number, row in enumerate(self._rows[shard]) if row.name}

    def _is_packed(self, name: str, stored: Stored) -> bool:
        """Returns True if a waiting file is in a shard: a run was interrupted before it deleted it. Earlier versions recomputed nothing."""
        return "video" not in stored.origin or (stored == self._packed[name].row.stored() and self._is_whole(name))

    def _is_whole(self, name: str) -> bool:
        """Returns True if the record of a packed video is whole; one in a bucket, which is there as a whole or not, is not read."""
        shard, number, row = self._packed[name]
        return not isinstance(shard, pathlib.Path) or self._checks.is_whole(shard, number, row)

    def __contains__(self, name: str) -> bool:
        """Returns True if there are whole features of this video."""
        stored = self.stored(name)
        return stored is not None and not stored.damaged

    def stored(self, name: str) -> Stored | None:
        """Returns what there is of a video; None for nothing. Its record is read once, but for one in a bucket."""
        if name in self._packed and name not in self._waiting:
            return self._packed[name].row.stored() if self._is_whole(name) else Stored(damaged=True)
        return self._files.stored(name) or (Stored(damaged=True) if name in self._lost else None)

    def files(self) -> dict[str, int]:
        """Returns the bytes of every shard by its name."""
        if isinstance(self._folder, RemotePath):
            sizes = {name: status.size for name, status in self._folder.listing().items() if status is not None}
            return {shard.name: sizes.get(shard.name, 0) for shard in self._rows}
        return {shard.name: shard.stat().st_size for shard in self._rows if isinstance(shard, pathlib.Path)}

    def file_of(self, name: str) -> str:
        """Returns the name of the shard of a video; "" as long as its features wait for one."""
        return self._packed[name].shard.name if name not in self._waiting else ""

    def others(self, names: list[str], files: Iterable[str]) -> list[str]:
        """Returns the videos that are not among `names`, sorted; `files` are of no use here."""
        return sorted((self._packed.keys() | self._waiting.keys()) - set(names))

    def put_aside(self, name: str) -> None:
        """Erases the name of a record, whose features are not those of its present row, at the latest with `finish`."""
        if name in self._waiting:
            del self._waiting[name]
            self._files.path(name).unlink(missing_ok=True)
        self._packed.pop(name, None)

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> GrowingFile:
        """Opens a temporary file for the features of a video. Raises: OSError."""
        return self._files.begin(name, shape, dtype)

    def add(self, name: str, file: GrowingFile) -> None:
        """Keeps a finished file until a shard is full."""
        self._files.add(name, file)
        self._waiting[name] = None
        if len(self._waiting) == self._shard_videos:
            self._pack()

    def finish(self) -> None:
        """Packs what waits, and erases the names of outdated records."""
        if self._waiting:
            self._pack()
        self._erase_names()
        waiting = self._folder / _WAITING
        if isinstance(waiting, RemotePath):
            waiting.remove_tree()
        else:
            shutil.rmtree(waiting, ignore_errors=True)

    def _erase_names(self) -> None:
        """Writes the CSV of shards again in which records are outdated."""
        for shard, rows in self._rows.items():
            kept = [
                row if self._packed.get(row.name) == (shard, number, row) else row._replace(name="")
                for number, row in enumerate(rows)
            ]
            if kept != rows:
                _write_rows(shard, kept)
                self._rows[shard] = kept

    def _pack(self):
        """Writes the waiting videos as a shard and deletes their files. The CSV comes first: a shard without one is never seen."""
        number = len(self._rows)
        while (shard := self._folder / f"features-{number:05d}{SHARD}") in self._rows:
            number += 1
        rows = []
        with replacing(shard) as temporary:
            with RecordWriter(temporary) as writer:
                for name in self._waiting:
                    content = self._files.path(name).read_bytes()
                    writer.write(content)
                    rows.append(_row(name, content)._replace(record=str(len(rows))))
            _write_rows(shard, rows)
        self._rows[shard] = rows
        self._packed |= self._records_of(shard)
        for name in self._waiting:
            self._files.path(name).unlink()
        self._waiting = {}


class RecordChecks:
    """Check of single records, whose checksums the library compares when they are read. Thread-safe."""

    def __init__(self):
        self._shard, self._reader, self._lock = None, None, threading.Lock()

    def is_whole(self, shard: pathlib.Path, number: int, row: Row) -> bool:
        """Returns True if record `number` of a shard holds whole features of the video and the windows of its row."""
        with self._lock:
            if shard != self._shard:  # one is open at a time: names mostly come in the order of shards
                from array_record.python.array_record_module import ArrayRecordReader  # does not exist on Windows

                self._shard, self._reader = shard, ArrayRecordReader(str(shard))
            try:
                [content] = self._reader.read([number])
            except RuntimeError:
                return False
        try:
            check_npz(io.BytesIO(content), shard, Expected(row.name, row.stored().windows))
        except FeatureError:
            return False
        return True


def _row(name: str, content: bytes) -> Row:
    """Returns the row of a record."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        label = arrays["label"]
        is_unlabeled = label.size == 0 and not arrays["labeled"]
        comment = comment_of(content)
        made_from = json.dumps(Stored.of_json(comment).origin) if comment else ""
        return Row(name, label_text(None if is_unlabeled else label.tolist()), str(len(arrays["start_s"])), made_from)


def shards_of(folder: AnyPath) -> list[AnyPath]:
    """Returns the shards of a folder, in order."""
    return sorted(folder.glob(f"features-*{SHARD}"))


def read_shard(shard: AnyPath) -> tuple[list[Row], str]:
    """Reads the CSV of a shard and looks at the shard's end.

    Returns:
      The rows in the order of the records, as far as they can be read, and why the shard cannot be used; "" for a whole one.

    Raises:
      OSError: a file may not be read, or its disk does not answer.
    """
    table = shard.with_suffix(".csv")
    rows: list[Row] = []
    try:
        for where, row in read_table(table, Row._fields[:3]):
            row["windows"] = str(whole_number(where, row, "windows"))
            if row.get("record"):
                row["record"] = str(whole_number(where, row, "record"))
            rows.append(Row(*(row.get(column, "") for column in Row._fields)))
    except FileNotFoundError:
        return [], f"{table.name}, which says what is in it, is not there"
    except TableError as error:
        return rows, str(error)
    if any(row.record for row in rows):  # a spreadsheet may have sorted them
        rows.sort(key=lambda row: int(row.record or -1))
        if [row.record for row in rows] != [str(number) for number in range(len(rows))]:
            return rows, f"{table.name}: its column record does not have each number from 0 once"
    if isinstance(shard, RemotePath):  # nothing opens it there, and an upload is whole or not there
        return rows, "it is cut" if shard.status().size < _SMALLEST else ""
    if shard.is_dir():
        return rows, "it is a folder"
    with shard.open("rb") as file:
        file.read(1)  # the reader below does not tell a file that it may not read from a damaged one
    from array_record.python.array_record_module import ArrayRecordReader  # does not exist on Windows

    reader = ArrayRecordReader(str(shard))
    is_whole, records = reader.ok(), reader.num_records()
    if not is_whole or not records:
        return rows, "it is cut or not of this format"
    reader.close()
    return rows, f"it has {records:,} records, {table.name} has {len(rows):,}" if records != len(rows) else ""


def _write_rows(shard: AnyPath, rows: list[Row]) -> None:
    with replacing(shard.with_suffix(".csv")) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(csv_text([Row._fields, *rows]))
