"""Rates at which training steps want clips and are given them, and which of the two limits a run."""

import dataclasses
import math
import queue
import threading
import time

import jax
import numpy as np

from cvmae.data.lines import counted
from cvmae.storage.counters import FIELDS

MIN_STEPS = 5  # for a statement about a run
LIMITED = 0.05  # of the time without a batch, from which on the input limits a run
MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True)
class Readers:
    """Threads that read the clips of this process, and the cores that they share.

    Attributes:
      clips: of the global batch.
      count: threads that read, over all worker processes.
      processes: of the run, each of which has as many.
      cores: that this process may use.
    """

    clips: int
    count: int
    processes: int
    cores: int


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums over steps: seconds in which a step ran, seconds in which there was no batch to run on, and of what reading has cost."""

    steps: int = 0
    busy: float = 0.0
    idle: float = 0.0
    counts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(FIELDS)))

    def minus(self, other: "_Sums") -> "_Sums":
        return _Sums(self.steps - other.steps, self.busy - other.busy, self.idle - other.idle, self.counts - other.counts)


class InputMeter:
    """Measures each step from the moment that its batch is there and the step before has ended.

    A thread waits for the end of the steps: the training loop, which is a step ahead of the devices, does not know it. The first step, which
    compiles, is left out.

    Args:
      readers: of the clips.
    """

    def __init__(self, readers: Readers):
        self._readers, self._steps = readers, 0
        self._lock, self._busy, self._idle, self._done = threading.Lock(), 0.0, 0.0, 0
        self._running: queue.SimpleQueue[tuple[float, float, dict] | None] = queue.SimpleQueue()
        self._first: _Sums | None = None  # when the second step was drawn
        self._reported = _Sums()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="cvmae-steps")
        self._thread.start()

    def started(self, asked: float, drawn: float, results: dict) -> None:
        """Counts a step.

        Args:
          asked: when its batch was asked for, by `time.perf_counter`.
          drawn: when it was there.
          results: arrays of the step, which are there at its end.
        """
        self._running.put((asked, drawn, results))

    def _watch(self) -> None:
        end, compiled = 0.0, False
        while (item := self._running.get()) is not None:
            asked, drawn, results = item
            try:
                jax.block_until_ready(results)
            except Exception:  # the training loop meets it too
                return
            del item, results
            now = time.perf_counter()
            if compiled:
                with self._lock:
                    self._busy += now - max(drawn, end)
                    self._idle += max(0.0, drawn - max(asked, end))
                    self._done += 1
            end, compiled = now, True

    def _sums(self, counts: np.ndarray) -> _Sums:
        with self._lock:
            return _Sums(self._done, self._busy, self._idle, counts)

    def report(self, counts: np.ndarray) -> dict[str, float]:
        """Returns `input/NAME` since the last report; {} where no step has ended.

        Args:
          counts: of the loader, from the beginning.
        """
        sums = self._sums(counts)
        since = sums.minus(self._reported)
        if not since.steps or not since.busy:
            return {}
        self._reported, mean = sums, self._clips(since)
        per_second = {
            "wanted_clips_per_second": mean.wanted,
            "given_clips_per_second": mean.delivered,
            "possible_clips_per_second": mean.possible,
            "megabytes_per_second": mean.delivered * mean.bytes_read / MEGABYTE,
        }
        shares = {"idle_share": mean.idle, "seconds_per_clip": mean.seconds}
        shares |= {"cpu_seconds_per_clip": mean.cpu, "queued_seconds_per_clip": mean.queued}
        events = {
            name: float(since.counts[FIELDS.index(name)]) for name in ("unreadable", "retries", "cache_hits", "cache_misses")
        }
        return {f"input/{name}": value for name, value in (per_second | shares | events).items() if math.isfinite(value)}

    def _clips(self, sums: _Sums) -> "_Rates":
        clips = self._readers.clips * sums.steps
        counts = dict(zip(FIELDS, sums.counts.tolist(), strict=True))
        per_clip = {name: count / max(1.0, counts["clips"]) for name, count in counts.items()}
        seconds = per_clip["seconds"]
        possible = self._readers.count * self._readers.processes / seconds if seconds else math.inf
        total = sums.busy + sums.idle
        return _Rates(
            clips / sums.busy,
            clips / total,
            possible,
            sums.idle / total,
            seconds,
            per_clip["cpu_seconds"],
            per_clip["queued_seconds"],
            per_clip["bytes_read"],
        )

    def summary(self, counts: np.ndarray) -> list[str]:
        """Returns the line that says what limited the run, input or accelerator, and what to change; [] for a run of few steps."""
        sums = self._sums(counts)
        if sums.steps < MIN_STEPS or not sums.busy:
            return []
        rates, readers = self._clips(sums), self._readers
        if rates.idle < LIMITED and rates.possible < rates.wanted:
            return [
                f"input: no step waited for the input, as batches were read ahead: the steps took {rates.wanted:.4g} clips/s, "
                f"{counted(readers.count, 'reader')} can give {rates.possible:.4g}, so a longer run may wait: {self._advice(rates)}"
            ]
        if rates.idle < LIMITED:
            spare = (
                f"; {counted(readers.count, 'reader')} could give {rates.possible:.4g}" if math.isfinite(rates.possible) else ""
            )
            return [f"input: the accelerator limited the run, not the input: its steps took {rates.wanted:.4g} clips/s{spare}"]
        return [
            f"input: the input limited the run by a factor of {rates.wanted / rates.delivered:.2f}: its steps would have taken {rates.wanted:.4g} "
            f"clips/s, and were given {rates.delivered:.4g}; {self._advice(rates)}"
        ]

    def _advice(self, rates: "_Rates") -> str:
        readers = self._readers
        needed = math.ceil(rates.wanted / readers.processes * rates.seconds)
        if not rates.seconds or needed <= readers.count:
            return "clips are read fast enough, so look at what else the host does: config.data.prefetch, other programs, the copy to the devices"
        if rates.cpu < rates.seconds / 2:
            takes = f"reading a clip takes {rates.seconds:.3g} s, of which {rates.cpu:.3g} s of a processor"
            if rates.queued > rates.seconds / 4:
                return (
                    f"{takes} and {rates.queued:.3g} s of waiting for one: its cores are busy with the step, where that runs on them, or with "
                    "other programs: take smaller files (prepare --transcode), more cores or more hosts"
                )
            return (
                f"{takes}, the rest is waiting: raise config.data.threads, for {needed} readers in place of {readers.count}, or bring the "
                "files nearer"
            )
        if readers.count < readers.cores:
            more = min(needed, readers.cores)
            rest = (
                ""
                if needed <= readers.cores
                else f", and for the rest smaller files (prepare --transcode) or more hosts: it takes {needed}"
            )
            return f"raise config.data.workers, for {more} readers in place of {readers.count}{rest}"
        return f"all {counted(readers.cores, 'core')} decode, and {needed} are needed: take smaller files (prepare --transcode), more cores or more hosts"

    def close(self) -> None:
        """Ends the thread."""
        self._running.put(None)
        self._thread.join(1.0)


@dataclasses.dataclass(frozen=True)
class _Rates:
    """Clips per second of all processes, the share of the time without a batch, and means over clips: seconds and bytes."""

    wanted: float
    delivered: float
    possible: float
    idle: float
    seconds: float
    cpu: float
    queued: float
    bytes_read: float
