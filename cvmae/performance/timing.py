"""Times of calls: wall and CPU, medians and spread, several calls in turn so that a busy machine is unfair to none."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each round: by the clock, and of all threads of this process together."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    def median(self, kind: str = "wall") -> float:
        """Of `wall` or `cpu`."""
        return float(np.median(getattr(self, kind)))

    def spread(self, kind: str = "wall") -> tuple[float, float]:
        """The quartiles."""
        low, high = np.quantile(getattr(self, kind), (0.25, 0.75))
        return float(low), float(high)

    def as_data(self) -> dict:
        """For JSON."""
        medians = {f"median_{kind}": self.median(kind) for kind in ("wall", "cpu")}
        return dataclasses.asdict(self) | medians | {"quartiles_wall": self.spread()}


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, cpu) seconds of a call, which has to wait for its own result."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(calls: dict[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Times]:
    """Times of every call over `rounds` rounds of all of them, one after the other, after rounds that do not count."""
    found = {name: [] for name in calls}
    for number in range(warmup + rounds):
        for name, call in calls.items():
            pair = timed(call)
            if number >= warmup:
                found[name].append(pair)
    return {name: Times(*zip(*pairs)) for name, pairs in found.items()}


def ratio(above: Times, below: Times, kind: str) -> float:
    """The median over rounds of one over the other: what else runs on the machine is in both of a round."""
    return float(np.median(np.array(getattr(above, kind)) / np.array(getattr(below, kind))))
