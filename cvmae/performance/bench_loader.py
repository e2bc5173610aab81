"""Times of the loader by itself, against a bare loop over its decoder with the same number of threads."""

import dataclasses
import itertools
import threading
from collections.abc import Iterable

import numpy as np

from cvmae.data import clips, pipeline
from cvmae.data.sources import Source
from cvmae.performance.timing import Times, ratio, timed


@dataclasses.dataclass(frozen=True)
class LoaderTimes:
    """Rounds of the loader and of the bare loop.

    Attributes:
      clips: per round.
      threads: of the bare loop.
      workers: processes of the loader; 0 decodes in this one.
      loader: its rounds.
      bare: the bare loop's rounds.
    """

    clips: int
    threads: int
    workers: int
    loader: Times
    bare: Times

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

    The bare loop reads the same clips, in the order of the loader.

    Raises:
      BadDataError: the loader met too many videos that cannot be read. The bare loop raises the reader's error for the first.
    """
    data = config.data
    threads, spec = max(1, data.workers) * max(1, data.threads), pipeline.clip_spec(config, for_views=True)
    loader_times, bare_times = [], []
    for _ in range(rounds):
        numbers: list[int] = []
        loader_times.append(time_loader(config, source, batches, numbers))
        bare_times.append(timed(lambda: bare_loop(source, spec, numbers, threads)))  # noqa: B023
    return LoaderTimes(batches * config.batch_size, threads, data.workers, Times(*zip(*loader_times)), Times(*zip(*bare_times)))


def time_loader(config, source: Source, batches: int, numbers: list[int]) -> tuple[float, float]:
    """Returns (wall, cpu) seconds of `batches` of a new loader in its steady state, and appends the record numbers of their clips."""
    data = config.data
    workers = max(1, data.workers)
    ready = max(data.prefetch, data.threads) * workers + workers * max(1, data.threads)  # made or begun when the clock starts
    with pipeline.make_loader(config, source) as loader:
        for batch in itertools.islice(loader, ready):
            del batch
        return timed(lambda: _read_batches(loader, batches, numbers))


def _read_batches(loader, batches: int, numbers: list[int]) -> None:
    """Reads batches and appends the record numbers of their clips."""
    for batch in itertools.islice(loader, batches):
        numbers += batch["index"].tolist()


def bare_loop(source: Source, spec: clips.ClipSpec, numbers: Iterable[int], threads: int) -> None:
    """Decodes and fits clips as the loader does, and discards them: no shuffling, batches, time limit or replacement.

    Args:
      source: the videos.
      spec: how a clip is cut.
      numbers: of records; they wrap around the source.
      threads: that decode at the same time.

    Raises:
      DecodeError: a video cannot be read.
    """
    remaining, lock = iter(numbers), threading.Lock()
    errors: list[Exception] = []

    def decode_remaining():
        """Decodes records until none remains, or one cannot be read in any thread."""
        while not errors:
            with lock:
                number = next(remaining, None)
            if number is None:
                return
            try:
                record = source[number % len(source)]
                pipeline.cut_clip(record, spec, np.random.default_rng(number))
            except Exception as error:  # raised where the threads are joined
                errors.append(error)

    workers = [threading.Thread(target=decode_remaining) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
