"""Times of the loader by itself, against a bare loop over its decoder with the same number of threads."""

import dataclasses
import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cvmae.data import clips, pipeline
from cvmae.data.bad_files import BadDataError, unpack_failures
from cvmae.data.sources import Source
from cvmae.performance.timing import Times, ratio, timed

Draw = tuple[int, Sequence[int]]  # number of a record, and the seed of what is random about its clip


@dataclasses.dataclass(frozen=True)
class LoaderTimes:
    """Rounds of the loader and of the bare loop.

    Attributes:
      clips: per round.
      threads: of the bare loop.
      workers: processes of the loader; 0 decodes in this one.
      loader: its rounds.
      bare: the bare loop's rounds.
      unreadable: {name: reason} of the videos that could not be read, in whose place the loader decoded others.
    """

    clips: int
    threads: int
    workers: int
    loader: Times
    bare: Times
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Clips per second of the loader over those of the bare loop, by the clock: the median over rounds."""
        return ratio(self.bare, self.loader, "wall")

    @property
    def cpu_fraction(self) -> float | None:
        """`fraction` by CPU time; None with worker processes, whose CPU time this process cannot read."""
        return None if self.workers else ratio(self.bare, self.loader, "cpu")


def measure_loader(config, source: Source, *, batches: int, rounds: int) -> LoaderTimes:
    """Times a new loader per round in its steady state: batches that it has ready when the clock starts do not count.

    The bare loop reads the same clips, from the same starts and in the order of the loader.

    Raises:
      BadDataError: the loader met too many videos that cannot be read: several in a row, or more than config.data.max_bad_fraction.
    """
    data = config.data
    threads, spec = max(1, data.workers) * max(1, data.threads), pipeline.clip_spec(config, for_views=True)
    loader_times, bare_times = [], []
    unreadable: dict[str, str] = {}
    for _ in range(rounds):
        read: list[Draw] = []
        loader_times.append(time_loader(config, source, batches, read, unreadable))
        if len(unreadable) > data.max_bad_fraction * len(source):
            raise BadDataError(
                f"{len(unreadable)} of {len(source)} videos cannot be read, more than config.data.max_bad_fraction={data.max_bad_fraction:g}: "
                f"{describe_unreadable(unreadable)}; repair them, leave them out of the data, or raise that field"
            )
        bare_times.append(timed(lambda: bare_loop(source, spec, read, threads)))  # noqa: B023
    times = Times(*zip(*loader_times)), Times(*zip(*bare_times))
    return LoaderTimes(batches * config.batch_size, threads, data.workers, *times, unreadable)


def describe_unreadable(unreadable: Mapping[str, str]) -> str:
    """Returns the first of {name: reason} for a line."""
    some = [f"{name} ({reason})" for name, reason in itertools.islice(unreadable.items(), 3)]
    return "; ".join(some + ["..."] * (len(unreadable) > 3))


def time_loader(
    config, source: Source, batches: int, read: list[Draw], unreadable: dict[str, str] | None = None
) -> tuple[float, float]:
    """Returns (wall, cpu) seconds of `batches` of a new loader in its steady state.

    Appends their clips to `read`, and adds the videos that cannot be read to `unreadable`, {name: reason}.
    """
    data = config.data
    workers = max(1, data.workers)
    ready = max(data.prefetch, data.threads) * workers + workers * max(1, data.threads)  # made or begun when the clock starts
    with pipeline.make_loader(config, source) as loader:
        reports = [batch["failures"] for batch in itertools.islice(loader, ready)]
        times = timed(lambda: _read_batches(loader, batches, read, reports))
    if unreadable is not None:
        unreadable.update(pair for report in reports for pair in unpack_failures(report))
    return times


def _read_batches(loader, batches: int, read: list[Draw], reports: list[np.ndarray]) -> None:
    """Reads batches and appends their clips, and their reports of videos that cannot be read."""
    for batch in itertools.islice(loader, batches):
        read += zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)
        reports.append(batch["failures"])


def bare_loop(source: Source, spec: clips.ClipSpec, read: Iterable[Draw], threads: int) -> None:
    """Decodes and fits clips as the loader does, and discards them: no shuffling, batches, time limit or replacement.

    Args:
      source: the videos.
      spec: how a clip is cut.
      read: the clips.
      threads: that decode at the same time.

    Raises:
      DecodeError: a video cannot be read.
    """
    remaining, lock = iter(read), threading.Lock()
    errors: list[Exception] = []

    def decode_remaining():
        """Decodes clips until none remains, or one cannot be read in any thread."""
        while not errors:
            with lock:
                clip = next(remaining, None)
            if clip is None:
                return
            try:
                number, draw = clip
                pipeline.cut_clip(source[number], spec, np.random.default_rng(draw))
            except Exception as error:  # raised where the threads are joined
                errors.append(error)

    workers = [threading.Thread(target=decode_remaining) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
