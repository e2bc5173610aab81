"""Unreadable videos: their report within a batch, the list in the workdir, and the limit that stops a run."""

import csv
import io
import json
import os
import re
import sys

import numpy as np

from cvmae.data.lines import one_line
from cvmae.files import copy_aside, replacing, set_aside
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath

REPORT_BYTES = 512
_NAME_CHARS, _REASON_CHARS = 240, 160
_COLUMNS = ["path", "reason"]


class BadDataError(Exception):
    """Too much of the data cannot be read."""


def pack_failures(failures: list[tuple[str, str]]) -> np.ndarray:
    """Packs (name, reason) pairs into uint8 [REPORT_BYTES]: JSON text padded with zeros; all zeros for no failure.

    The size is fixed because batches are stacked and travel through shared memory. Texts that are too long lose the front of
    the name and the end of the reason; pairs that do not fit are left out (they are reported again in a later epoch).
    """
    pairs = [[name[-_NAME_CHARS:], reason[:_REASON_CHARS]] for name, reason in failures]
    text = json.dumps(pairs, ensure_ascii=False).encode() if pairs else b""
    while len(text) > REPORT_BYTES:
        if len(pairs) > 1:
            pairs.pop()
        else:  # characters outside ASCII take several bytes each
            name, reason = pairs[0]
            pairs = [[name[len(name) // 4 :], reason[: len(reason) * 3 // 4]]]
        text = json.dumps(pairs, ensure_ascii=False).encode()
    report = np.zeros(REPORT_BYTES, np.uint8)
    report[: len(text)] = np.frombuffer(text, np.uint8)
    return report


def unpack_failures(reports: np.ndarray) -> list[tuple[str, str]]:
    """Returns the (name, reason) pairs of a batch, from its `failures`, uint8 [b, REPORT_BYTES]."""
    texts = (bytes(row).rstrip(b"\0") for row in reports[reports[:, 0] != 0])
    return [(name, reason) for text in texts for name, reason in json.loads(text)]


class BadFiles:
    """List of unreadable files in `workdir/bad_files.csv`, one line per file and reason, kept across restarts.

    Args:
      workdir: folder of the run.
      total: number of videos in the split.
      max_fraction: config.data.max_bad_fraction; the run stops above this fraction of distinct bad videos.
      name: file name, one per split.
      writes: False in processes other than the main one, which only count.
      announced: what the files are, for a line on stderr that names new ones; empty for no line.

    Attributes:
      path: of the list.
    """

    def __init__(
        self,
        workdir: str | os.PathLike | RemotePath,
        total: int,
        max_fraction: float,
        name: str = "bad_files.csv",
        writes: bool = True,
        announced: str = "",
    ):
        self.path, self._writes, self._announced = as_path(workdir) / name, writes, announced
        self._total, self._max_fraction = total, max_fraction
        self._known: dict[tuple[str, str], None] = {}  # a dict for its order
        self._seen: dict[tuple[str, str], None] = {}
        if self.path.exists():
            self._known, is_whole = _read_list(self.path)
            if writes and not is_whole:
                self._renew()

    def _renew(self) -> None:
        """Sets a damaged list aside, and writes its good lines again."""
        # Other processes read it at the same time, so it is never away.
        new = set_aside(self.path) if self.path.is_dir() else copy_aside(self.path)
        print(f"{self.path} is damaged: it is kept as {new.name}, and {len(self._known)} of its lines are taken", file=sys.stderr)
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *self._known])

    def __len__(self) -> int:
        """Returns the number of distinct bad videos so far."""
        return len({name for name, _ in self._known})

    def update(self, reports: np.ndarray) -> int:
        """Adds the `failures` of a batch, uint8 [b, REPORT_BYTES], and returns the number of clips with a failure.

        Raises:
          BadDataError: more than max_fraction of the videos are bad; the list is written first.
        """
        self.add(unpack_failures(reports))
        return int((reports[:, 0] != 0).sum())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All (name, reason) pairs so far, those of earlier runs among them, whose files may have been repaired."""
        return list(self._known)

    @property
    def seen(self) -> list[tuple[str, str]]:
        """The (name, reason) pairs that were added since this process began."""
        return list(self._seen)

    def add(self, pairs: list[tuple[str, str]]) -> None:
        """Adds (name, reason) pairs.

        Raises:
          BadDataError: more than max_fraction of the videos are bad; the list is written first.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        self._seen.update(dict.fromkeys(pairs))
        if new:
            self._append(new)
        # The same files end a run that is started again too; those that were repaired meanwhile are listed, and not seen.
        most = self._max_fraction * self._total
        if (new and len(self) > most) or len({name for name, _ in self._seen}) > most:
            raise BadDataError(
                f"{len(self)} of {self._total} videos cannot be read, more than data.max_bad_fraction={self._max_fraction:g}: "
                f"{_shown(list(self._known))}. The full list is in {self.path}; repair the videos, leave them out of the data (of a "
                "manifest, their lines), or raise data.max_bad_fraction"
            )
        if new and self._announced and self._writes:
            print(
                f"note: {self._announced}: cannot be read, and left out: {_shown(new)}; {self.path} lists them", file=sys.stderr
            )

    def _append(self, pairs):
        self._known.update(dict.fromkeys(pairs))
        if not self._writes:
            return
        if isinstance(self.path, RemotePath):  # nothing can be appended there
            text = io.StringIO(newline="")
            csv.writer(text).writerows([_COLUMNS, *self._known])
            self.path.write_text(text.getvalue())
            return
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(_COLUMNS)
            writer.writerows(pairs)


def _shown(pairs: list[tuple[str, str]]) -> str:
    """Returns the first (name, reason) pairs for a message."""
    return "; ".join(f"{one_line(name)} ({reason})" for name, reason in pairs[:3]) + ("; ..." if len(pairs) > 3 else "")


def _read_list(path: AnyPath) -> tuple[dict[tuple[str, str], None], bool]:
    """Returns the lines of a list that are whole, and True if all are."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))
    except (IsADirectoryError, csv.Error):
        return {}, False
    # A surrogate stands for a byte that is no UTF-8.
    good = [row for row in rows[1:] if len(row) == 2 and not re.search("[\0\ud800-\udfff]", "".join(row))]
    is_whole = rows[:1] == [_COLUMNS] and len(good) == len(rows) - 1
    pairs = [(path, reason) for path, reason in good]
    return dict.fromkeys(pairs if rows[:1] == [_COLUMNS] else ()), is_whole
