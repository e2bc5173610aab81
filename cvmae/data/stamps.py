"""Stamps of videos: short texts that become others when a video is replaced."""

import dataclasses
import functools
import hashlib
import os
import threading

import numpy as np

from cvmae.data.records import Record, Source, UnreadableError
from cvmae.storage.cache import RemoteFile
from cvmae.storage.path import is_remote
from cvmae.storage.remote_path import RemotePath, Status


@dataclasses.dataclass(frozen=True)
class VideoStamp:
    """The part of a video that a record uses, and a stamp of the video.

    Attributes:
      text: of a file its size and the time of its last change, of an object its size and generation or entity tag, of bytes and frames a hash
        of them; None where the video cannot be looked at.
      start, end: seconds, see `Record`.
    """

    text: str | None
    start: float | None = None
    end: float | None = None


class Stamps:
    """Stamps of the records of a source, for one run: the folders of a bucket are listed once. Thread-safe.

    A stamp of a source whose videos are bytes or frames is a hash of them, for which they are read.
    """

    def __init__(self, source: Source):
        self._source, self._own = source, getattr(source, "stamp", None)
        self._listings: dict[str, dict[str, Status | None]] = {}
        self._lock = threading.Lock()

    @property
    def without_reading(self) -> bool:
        """True if no video is read for its stamp."""
        return self._own is not None or hasattr(self._source, "video_file")

    @property
    def are_needed(self) -> bool:
        """True if `source.identity` may be the same though a video was replaced: it is of names, as of files, or from outside the package."""
        return self.without_reading or getattr(self._source, "may_change", False)

    @functools.cached_property
    def _parts(self) -> list[tuple]:
        return getattr(self._source, "parts", list)()

    def of(self, index: int, record: Record | None = None) -> VideoStamp | None:
        """Returns the stamp of a record; None if the record cannot be had.

        Args:
          index: of the record.
          record: the record, where it is there already.
        """
        if self._own is not None:
            with self._lock:
                _, *part = self._parts[index] if self._parts else (None,)
            return VideoStamp(self._own(index), *(None if seconds is None else float(seconds) for seconds in part))
        try:
            record = self._source[index] if record is None else record
        except UnreadableError:
            return None
        return VideoStamp(self._of_payload(record.payload), record.start, record.end)

    def _of_payload(self, payload) -> str | None:
        if isinstance(payload, RemoteFile) and payload.size >= 0:
            stamp = self._of_object(payload.url)
            return stamp and f"{stamp} {payload.offset}+{payload.size}"
        if isinstance(payload, RemoteFile):
            return self._of_object(payload.url)
        if isinstance(payload, str):
            return self._of_object(payload) if is_remote(payload) else stamp_of_path(payload)
        shape = payload.shape if isinstance(payload, np.ndarray) else len(payload)
        content = np.ascontiguousarray(payload).data if isinstance(payload, np.ndarray) else payload
        return f"{shape} {hashlib.blake2b(content, digest_size=16).hexdigest()}"

    def _of_object(self, url: str) -> str | None:
        path = RemotePath(url)
        folder = str(path.parent)
        with self._lock:
            if folder not in self._listings:
                try:
                    self._listings[folder] = path.parent.listing()
                except OSError:
                    self._listings[folder] = {}
            status = self._listings[folder].get(path.name)
        return None if status is None else _text(status)


def stamp_of_path(path: str) -> str | None:
    """Returns the stamp of a file, its size and the time of its last change in nanoseconds, or of an object; None if it cannot be looked at."""
    try:
        if is_remote(path):
            return _text(RemotePath(path).status())
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def _text(status: Status) -> str:
    return f"{status.size} {status.stamp}"
