"""Numbers for `data.workers` and `data.threads` where they are `auto`: of a few clips that are read before the first step.

The clips of a run do not depend on these numbers, so they may differ from one start to the next.
"""

import dataclasses
import math
import os
import pathlib
import re
import statistics
import time

import numpy as np

from cvmae.data.pipeline import Reader, evaluation_reader
from cvmae.data.records import Source, UnreadableError
from cvmae.data.timeout import TimeLimitError, call_with_limit
from cvmae.storage.counters import thread_times

AUTO = "auto"
CLIPS, SECONDS, ENOUGH = 12, 2.0, 4  # of the measurement: the seconds end it where enough clips are read
MOST_THREADS = 4  # of a process: beyond, Python's lock is in the way
MEMORY_SHARE = 0.5  # of the free memory, which batches that wait may take
PROCESS_BYTES = 300 * 2**20  # of a worker process without its batches


@dataclasses.dataclass(frozen=True)
class Host:
    """Cores and memory that a process of a run may use.

    Attributes:
      cores: that it may use, its share of those of the machine where several processes of a run are on it.
      memory: bytes that are free, its share likewise.
      accelerated: False where the training step computes on the same cores.
    """

    cores: int
    memory: int
    accelerated: bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """Medians over clips that were read by one thread, in seconds; `waiting`: for the storage, not for a core."""

    cpu: float
    waiting: float
    clips: int


def is_auto(data) -> bool:
    """Returns True where config.data leaves a number to the measurement."""
    return AUTO in (data.workers, data.threads)


def measure(config, source: Source) -> Reading:
    """Reads a few clips, spread over the source; clips that cannot be read are left out, and all zeros mean that there were no others."""
    reader, times = dataclasses.replace(evaluation_reader(config, source), timeout_s=0.0), []
    begin = time.perf_counter()
    for index in np.linspace(0, len(source) - 1, min(CLIPS, len(source)) + 1).astype(int).tolist():
        try:
            times.append(call_with_limit(lambda: _time_clip(reader, index), config.data.timeout_s))  # noqa: B023
        except (UnreadableError, TimeLimitError):
            continue
        if time.perf_counter() - begin > SECONDS and len(times) >= ENOUGH:
            break
    times = times[1:] or times  # the first clip loads libraries
    if not times:
        return Reading(0.0, 0.0, 0)
    wall, cpu, queued = (statistics.median(column) for column in zip(*times, strict=True))
    return Reading(cpu, max(0.0, wall - cpu - queued), len(times))


def _time_clip(reader: Reader, index: int) -> list[float]:
    """Returns the seconds of `thread_times` that a clip takes, all of it in this thread. Raises: UnreadableError."""
    before = thread_times()
    reader.cut(index, np.random.default_rng(0))
    return [after - start for after, start in zip(thread_times(), before, strict=True)]


def choose(data, reading: Reading, host: Host, batch_bytes: int) -> tuple[int, int]:
    """Returns numbers for data.workers and data.threads; one that is a number already stays.

    On an accelerator one core is left to the training process, and the others decode; threads of a process are more than one where
    clips wait for the storage, as many as keep its core busy. Where the step computes on the cores itself, one thread decodes beside it.

    Args:
      data: config.data.
      reading: see `measure`.
      host: what this process may use.
      batch_bytes: of this process's part of a batch.
    """
    workers, threads = data.workers, data.threads
    spare = max(1, host.cores - 1)
    if threads == AUTO:
        hidden = (reading.cpu + reading.waiting) / reading.cpu if reading.cpu else 1.0
        most = MOST_THREADS if workers == AUTO else max(1, spare // max(1, workers))
        threads = min(most, max(1, math.floor(hidden))) if workers == AUTO else most
        threads = threads if host.accelerated else 1
        busy = 1.0 if workers == AUTO else float(threads)
    else:
        busy = float(max(1, threads))
    if workers == AUTO:
        fits = int(host.memory * MEMORY_SHARE / (PROCESS_BYTES + batch_bytes * (2 * max(data.prefetch, threads) + 1)))
        workers = max(1, min(int(spare / busy), fits)) if host.accelerated and host.cores > 1 else 0
    return workers, threads


def free_memory() -> int:
    """Returns the bytes of memory that are free on this machine, or in the container's limit if that is less."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    except OSError:
        match = None
    free = int(match[1]) * 1024 if match else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    folder = pathlib.Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return max(0, free)
