"""The loader alone, against the bare loop over its decoder with as many threads."""

import dataclasses
import itertools
import threading

import numpy as np

from cvmae.data import clips, pipeline
from cvmae.data.sources import Source
from cvmae.performance.timing import Times, ratio, timed


@dataclasses.dataclass(frozen=True)
class LoaderTimes:
    """Rounds of the loader, which has `workers` processes, and of the bare loop, over `clips` clips each, with `threads` threads."""

    clips: int
    threads: int
    workers: int
    loader: Times
    bare: Times

    @property
    def share(self) -> float:
        """The loader's clips a second over those of the bare loop: the median over rounds, by the clock."""
        return ratio(self.bare, self.loader, "wall")

    @property
    def cpu_share(self) -> float | None:
        """The same by CPU time; None with worker processes, whose CPU time is not this process's."""
        return None if self.workers else ratio(self.bare, self.loader, "cpu")


def bare_loop(source: Source, spec: clips.ClipSpec, numbers, threads: int) -> None:
    """Decodes and fits clips as the loader does, and throws them away: no shuffling, batches, time limit or replacement."""
    left, lock, errors = iter(numbers), threading.Lock(), []

    def work():
        while not errors:
            with lock:
                number = next(left, None)
            if number is None:
                return
            try:
                record = source[number % len(source)]
                pipeline.cut_clip(record, spec, np.random.default_rng(number))
            except Exception as error:  # raised where the threads are joined
                errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def measure_loader(config, source: Source, *, batches: int, rounds: int) -> LoaderTimes:
    """Times a new loader in each round, in its steady state: what it had ready before the clock starts does not count.

    Both read the same clips, in the loader's order. Raises: BadDataError, or the reader's error for a video that cannot be read.
    """
    data, size = config.data, config.batch_size
    threads, spec = max(1, data.workers) * max(1, data.threads), pipeline.clip_spec(config)
    ready = max(data.prefetch, data.threads) * max(1, data.workers) + threads
    found = {"loader": [], "bare": []}
    for _ in range(rounds):
        with pipeline.make_loader(config, source) as loader:
            for batch in itertools.islice(loader, ready):
                del batch
            numbers = []
            found["loader"].append(
                timed(lambda: numbers.extend(i for _ in range(batches) for i in next(loader)["index"].tolist()))  # noqa: B023
            )
        found["bare"].append(timed(lambda: bare_loop(source, spec, numbers, threads)))  # noqa: B023
    return LoaderTimes(batches * size, threads, data.workers, *(Times(*zip(*found[name])) for name in ("loader", "bare")))
