"""Wall and CPU times of calls: medians and quartiles, and calls in alternation, so that a busy machine slows all of them alike."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each round.

    Attributes:
      wall: by the clock.
      cpu: of all threads of this process together.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    def median(self, clock: str = "wall") -> float:
        """Returns the median of `wall` or `cpu`."""
        return float(np.median(getattr(self, clock)))

    def spread(self, clock: str = "wall") -> tuple[float, float]:
        """Returns the lower and the upper quartile of `wall` or `cpu`."""
        low, high = np.quantile(getattr(self, clock), (0.25, 0.75))
        return float(low), float(high)

    def as_data(self) -> dict:
        """Returns rounds, medians and quartiles for JSON."""
        medians = {f"median_{clock}": self.median(clock) for clock in ("wall", "cpu")}
        return dataclasses.asdict(self) | medians | {"quartiles_wall": self.spread()}


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Returns (wall, cpu) seconds of a call, which has to wait for its own result."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(calls: dict[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Times]:
    """Times calls over `rounds` rounds, each of which runs every call once, after `warmup` rounds that are not timed."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            pair = timed(call)
            if number >= warmup:
                seconds[name].append(pair)
    return {name: Times(*zip(*pairs)) for name, pairs in seconds.items()}


def ratio(numerator: Times, denominator: Times, clock: str) -> float:
    """Returns the median over rounds of the ratio of two times, so that what else runs on the machine is in both of a round.

    Args:
      numerator: its rounds.
      denominator: the same number of rounds.
      clock: `wall` or `cpu`.
    """
    return float(np.median(np.array(getattr(numerator, clock)) / np.array(getattr(denominator, clock))))
