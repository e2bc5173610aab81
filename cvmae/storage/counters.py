"""Counters of what reading clips costs: seconds, bytes, retries, hits of a cache, by whichever part of reading knows of them.

Each clip has counters of its own, made where it is read (a thread, or a worker process); they travel with the batch, and the loader adds
them up. So whatever reads for a clip may call `add`, and need not know where it runs.
"""

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Iterator

import numpy as np

# clips: that were read; seconds: by the clock, of the threads that read; cpu_seconds: of the processor; queued_seconds: of waiting for a core.
# The last, and bytes_read, of files: as far as the system tells it.
# unreadable: records that could not be read; retries, cache_hits, cache_misses: of sources that have such.
FIELDS = (
    "clips",
    "seconds",
    "cpu_seconds",
    "queued_seconds",
    "bytes_read",
    "unreadable",
    "retries",
    "cache_hits",
    "cache_misses",
)
KEY = "counters"  # of a batch: float64 [b, len(FIELDS)]


class Counters:
    """Counters of one clip; several threads may add to them."""

    def __init__(self):
        self._values, self._lock = np.zeros(len(FIELDS)), threading.Lock()

    def add(self, **amounts: float) -> None:
        """Adds to counters by name."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[FIELDS.index(name)] += amount

    def values(self) -> np.ndarray:
        """Returns the counters, float64 [len(FIELDS)], as they are now: a call that was given up may add to them later."""
        with self._lock:
            return self._values.copy()


_current: contextvars.ContextVar[Counters | None] = contextvars.ContextVar("counters", default=None)


def current() -> Counters | None:
    """Returns the counters of the clip that this thread reads; None outside."""
    return _current.get()


def add(**amounts: float) -> None:
    """Adds to the counters of the clip that this thread reads; outside of one nothing is counted."""
    counters = current()
    if counters is not None:
        counters.add(**amounts)


@contextlib.contextmanager
def counting(counters: Counters | None) -> Iterator[None]:
    """Makes `counters` those of this thread in the block; a thread that works for another one takes its `current()`."""
    token = _current.set(counters)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def timed(reads_files: bool = False) -> Iterator[None]:
    """Counts the seconds of the block, and if `reads_files` the bytes that this thread reads in it."""
    if current() is None:
        yield
        return
    read = _bytes_read() if reads_files else 0
    before = thread_times()
    try:
        yield
    finally:
        seconds, cpu, queued = (after - start for after, start in zip(thread_times(), before, strict=True))
        bytes_read = _bytes_read() - read if reads_files else 0
        add(seconds=seconds, cpu_seconds=cpu, queued_seconds=queued, bytes_read=bytes_read)


def thread_times() -> tuple[float, float, float]:
    """Returns seconds of the clock, of the processor for this thread, and in which it waited for a core: 0 where Linux does not tell it."""
    return time.perf_counter(), time.thread_time(), _of_thread("schedstat").number(1) / 1e9


def _bytes_read() -> int:
    """Returns the bytes that this thread has read by system calls, also those that the page cache gave; 0 where that is not counted."""
    return _of_thread("io").number(1)  # behind `rchar:`


class _ThreadFile:
    """A file in which Linux counts something of a thread; absent elsewhere."""

    def __init__(self, name: str):
        try:
            self._file = os.open(f"/proc/thread-self/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def number(self, word: int) -> int:
        """Returns one of its words as a number; 0 where the file is absent or shorter."""
        try:
            return int(os.pread(self._file, 64, 0).split()[word])
        except (OSError, ValueError, IndexError):
            return 0

    def __del__(self):
        if self._file >= 0:
            os.close(self._file)


_local = threading.local()


def _of_thread(name: str) -> _ThreadFile:
    """Returns the file of that name of this thread, which is opened once."""
    file = getattr(_local, name, None)
    if file is None:
        file = _ThreadFile(name)
        setattr(_local, name, file)
    return file
