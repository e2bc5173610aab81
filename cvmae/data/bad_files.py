"""Videos that cannot be read: how a batch reports them, the list in the workdir, and when to stop."""

import csv
import json
import os

import numpy as np

REPORT_BYTES = 512
_NAME_CHARS, _REASON_CHARS = 240, 160


class BadDataError(Exception):
    """Too much of the data cannot be read."""


def pack_failures(failures: list[tuple[str, str]]) -> np.ndarray:
    """(name, reason) pairs as JSON text in uint8 [REPORT_BYTES], zeros behind it; no failure is all zeros.

    A fixed size, because batches are stacked and travel through shared memory. Texts that are too long lose the front of
    the name and the end of the reason; pairs that do not fit any more are left out (they come up again later).
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
    """The (name, reason) pairs of a batch, from uint8 [b, REPORT_BYTES]."""
    texts = (bytes(row).rstrip(b"\0") for row in reports[reports[:, 0] != 0])
    return [(name, reason) for text in texts for name, reason in json.loads(text)]


class BadFiles:
    """`workdir/bad_files.csv`: each unreadable file once for each reason, kept over restarts. For the main process.

    total: videos of the split. max_fraction: config.data.max_bad_fraction; above this share of distinct bad videos the
    run stops. name: of the file, one for each split. writes: False for a list that another process writes.
    """

    def __init__(
        self, workdir: str | os.PathLike, total: int, max_fraction: float, name: str = "bad_files.csv", writes: bool = True
    ):
        self._path, self._writes = os.path.join(workdir, name), writes
        self._total, self._max_fraction = total, max_fraction
        self._known: dict[tuple[str, str], None] = {}  # a dict for its order
        if os.path.exists(self._path):
            with open(self._path, encoding="utf-8", newline="") as file:
                self._known = {(row["path"], row["reason"]): None for row in csv.DictReader(file)}

    def __len__(self) -> int:
        """Distinct bad videos so far."""
        return len({name for name, _ in self._known})

    def update(self, reports: np.ndarray) -> int:
        """Takes in a batch's `failures`, uint8 [b, REPORT_BYTES]; returns how many of its clips were replaced.

        Raises: BadDataError above max_fraction, after writing the list.
        """
        self.add(unpack_failures(reports))
        return int((reports[:, 0] != 0).sum())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every (name, reason) so far."""
        return list(self._known)

    def add(self, pairs: list[tuple[str, str]]) -> None:
        """Takes in (name, reason) pairs. Raises: BadDataError above max_fraction, after writing the list."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            self._append(new)
        if new and len(self) > self._max_fraction * self._total:
            names = list(dict.fromkeys(name for name, _ in self._known))
            shown = "; ".join(f"{name} ({reason})" for name, reason in list(self._known)[:3])
            raise BadDataError(
                f"{len(names)} of {self._total} videos cannot be read, more than data.max_bad_fraction={self._max_fraction:g}: "
                f"{shown}{'; ...' if len(self._known) > 3 else ''}. All are in {self._path}; repair them, take them out of the "
                "manifest, or raise data.max_bad_fraction"
            )

    def _append(self, pairs):
        self._known.update(dict.fromkeys(pairs))
        if not self._writes:
            return
        fresh = not os.path.exists(self._path)
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["path", "reason"])
            writer.writerows(pairs)
