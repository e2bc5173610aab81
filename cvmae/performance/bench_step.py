"""Compiles and times the training step of a config on the devices that are here."""

import dataclasses
import re
import resource
import sys
import time

import jax
import numpy as np

from cvmae.data.pipeline import make_loader
from cvmae.performance import hlo, hlo_cost
from cvmae.performance.chips import CHIPS
from cvmae.performance.memory import Memory, memory_of
from cvmae.performance.timing import Times, timed
from cvmae.performance.traced_step import Step


@dataclasses.dataclass
class Bench:
    """A step that is ready to run.

    Attributes:
      step: traced, see `planning.step.Step`.
      program: compiled; it takes (state, batch).
      seconds: of tracing, lowering and compiling.
      text: of the program.
    """

    step: Step
    program: object
    seconds: dict[str, float]
    text: str

    @classmethod
    def of(cls, config, devices) -> "Bench":
        """Compiles a config for devices. Raises: ConfigError."""
        times = [time.perf_counter()]
        step = Step(config, devices)
        times.append(time.perf_counter())
        lowered = step.traced.lower()
        times.append(time.perf_counter())
        program = lowered.compile()
        times.append(time.perf_counter())
        seconds = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist()))
        return cls(step, program, seconds, program.as_text())

    @property
    def memory(self) -> Memory:
        """As compiled, of one device."""
        return memory_of(self.step, self.program)

    @property
    def flops(self) -> tuple[int, float]:
        """Operations of one device: of the matrix products of the compiled program, and XLA's own count."""
        module, cost = hlo.parse(self.text), self.program.cost_analysis() or {}
        return sum(op.flops * op.times for op in hlo_cost.ops(module)), cost.get("flops", 0.0)

    def put(self, batch):
        """What of a loader's batch the step takes, on the devices."""
        return self.step.task.placement.put({name: batch[name] for name in self.step.task.BATCH_KEYS})

    def run(self, state, batch):
        """One step that has ended when this returns: (state, metrics)."""
        return jax.block_until_ready(self.program(state, self.put(batch)))

    def time_steps(self, state, batch, steps: int, warmup: int):
        """(state, Times) of steps on one batch, its way to the devices included."""
        pairs = []
        for number in range(warmup + steps):
            kept = []
            pair = timed(lambda: kept.append(self.run(state, batch)[0]))  # noqa: B023
            [state] = kept
            if number >= warmup:
                pairs.append(pair)
        return state, Times(*zip(*pairs))

    def time_with_loader(self, config, source, state, steps: int):
        """(state, seconds, seconds of them spent waiting for the loader), as the training loop runs: with a step under way."""
        waited, metrics = 0.0, None
        with make_loader(config, source) as loader:
            state, _ = self.run(state, next(loader))
            begin = time.perf_counter()
            for _ in range(steps):
                before = time.perf_counter()
                batch = next(loader)
                waited += time.perf_counter() - before
                state, new = self.program(state, self.put(batch))
                metrics = jax.block_until_ready(metrics)
                metrics = new
            jax.block_until_ready((state, metrics))
            return state, time.perf_counter() - begin, waited


def peak_memory(devices) -> dict[str, int]:
    """Bytes: of the fullest device where the backend keeps count, and of this process."""
    stats = [device.memory_stats() or {} for device in devices]
    used = max(s.get("peak_bytes_in_use", 0) for s in stats)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"device": used, "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


# Published peaks of dense bfloat16 products: for NVIDIA its data sheets (without sparsity, the SXM versions).
_PEAKS = (
    (r"TPU v4", CHIPS["v4"].flops),
    (r"TPU v5 ?(lite|e)", CHIPS["v5e"].flops),
    (r"TPU v5", CHIPS["v5p"].flops),
    (r"TPU v6", CHIPS["v6e"].flops),
    (r"H100|H200", 989e12),
    (r"A100", 312e12),
)


def peak_flops(kind: str) -> float:
    """Operations a second of a device of this kind; 0 where it is not in the table."""
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, kind)), 0.0)
