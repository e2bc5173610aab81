"""The training step of a config, compiled for the devices that are here and timed."""

import dataclasses
import re
import resource
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np

from cvmae.data.pipeline import make_loader
from cvmae.performance import hlo, hlo_cost
from cvmae.performance.chips import CHIPS
from cvmae.performance.memory import Memory, memory_of
from cvmae.performance.timing import Times, timed
from cvmae.performance.traced_step import TracedStep


@dataclasses.dataclass
class CompiledStep:
    """A training step that is ready to run.

    Attributes:
      traced: the step as traced.
      program: the step as compiled; it takes (state, batch).
      seconds: of tracing, lowering and compiling.
      text: of the compiled program.
    """

    traced: TracedStep
    program: jax.stages.Compiled
    seconds: dict[str, float]
    text: str

    @classmethod
    def compile(cls, config, devices) -> "CompiledStep":
        """Compiles the step of a config for devices. Raises: ConfigError."""
        times = [time.perf_counter()]
        traced = TracedStep(config, devices)
        times.append(time.perf_counter())
        lowered = traced.traced.lower()
        times.append(time.perf_counter())
        program = lowered.compile()
        times.append(time.perf_counter())
        seconds = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist()))
        return cls(traced, program, seconds, program.as_text())

    @property
    def memory(self) -> Memory:
        """Memory of one device as compiled."""
        return memory_of(self.traced, self.program)

    @property
    def flops(self) -> tuple[int, float]:
        """Operations of one device: those of matrix products in the compiled program, and XLA's own count."""
        module, cost = hlo.parse(self.text), self.program.cost_analysis() or {}
        return sum(op.flops * op.times for op in hlo_cost.ops(module)), cost.get("flops", 0.0)

    def put(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array | np.ndarray]:
        """Moves the entries of a loader's batch that the step takes to the devices."""
        task = self.traced.task
        return task.placement.put({name: batch[name] for name in task.BATCH_KEYS})

    def run(self, state, batch):
        """Runs one step to its end: (state, metrics)."""
        return jax.block_until_ready(self.program(state, self.put(batch)))

    def time_steps(self, state, batch, steps: int, warmup: int):
        """Times steps on one batch, its transfer to the devices included: (state, Times)."""

        def step():
            nonlocal state  # which the program donates
            state, _ = self.run(state, batch)

        pairs = [timed(step) for _ in range(warmup + steps)][warmup:]
        return state, Times(*zip(*pairs))

    def time_with_loader(self, config, source, state, steps: int):
        """Times steps as the training loop runs them, one ahead of the host: (state, seconds, seconds of waiting for the loader)."""
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
    """Returns the peak bytes of the fullest device (0 where the backend does not count them) and of this process."""
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


def peak_flops(device_kind: str) -> float:
    """Returns the published peak of a device, in operations per second; 0 where it is not in the table."""
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, device_kind)), 0.0)
