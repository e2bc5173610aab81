"""Compiles a step for its devices, and puts what is known of the program into numbers: per chip, per step, per run."""

import collections
import dataclasses
import time

import jax

from cvmae.performance import hlo, hlo_cost
from cvmae.performance.chips import Topology
from cvmae.performance.memory import Memory, memory_of
from cvmae.performance.oom import Allocation, TooLarge, read_refusal
from cvmae.performance.peak import Lines, largest
from cvmae.performance.traced_step import Step


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step, by what would bound it; an estimate from peaks, not a measurement.

    Attributes:
      roofline: the sum over operations of the larger of operations over peak and bytes over bandwidth. A lower bound: vector
        units, latencies and layouts are left out.
      cycles: XLA's own cycle counts over the clock; 0 where it gives none. It knows the vector units, and no collective.
      collectives: bytes sent over the links, as if nothing were computed meanwhile.
      kernels: operations of Pallas kernels over peak, a lower bound too; XLA counts nothing of them.
    """

    roofline: float
    cycles: float
    collectives: float
    kernels: float = 0.0

    @property
    def step(self) -> float:
        """The more careful of the two, all kernels and all collectives."""
        return max(self.roofline, self.cycles) + self.kernels + self.collectives


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program of one device.

    Attributes:
      memory: of one device.
      flops: of matrix products, as compiled. xla_flops: XLA's own count, which has elementwise work too and loop bodies once.
      bytes: of main memory, read and written.
      collectives: {kind: (how many run in a step, bytes of their results, bytes that a device sends)}.
      estimate: None where nothing is known of the chip.
      notes: what could not be counted.
      allocations: the largest arrays at the peak.
      seconds: that the compilation took here.
    """

    memory: Memory
    flops: int
    xla_flops: float
    bytes: int
    collectives: dict[str, tuple[int, int, float]]
    estimate: Estimate | None
    notes: tuple[str, ...]
    allocations: tuple[Allocation, ...]
    seconds: float


def compile_step(step: Step, topology: Topology) -> Compiled | TooLarge:
    """Compiles; a program that does not fit is a `TooLarge`. Raises: jax.errors.JaxRuntimeError for anything else."""
    begin = time.perf_counter()
    try:
        program = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = read_refusal(str(error))
        if refusal is None:
            raise
        return refusal
    seconds = time.perf_counter() - begin
    cost = program.cost_analysis() or {}
    text = program.as_text()
    return _counted(step, topology, program, text, cost.get("flops", 0.0), seconds)


def _counted(step, topology, program, text, xla_flops, seconds) -> Compiled:
    module = hlo.parse(text)
    ops, together = hlo_cost.ops(module), hlo_cost.collectives(module, topology.count)
    kinds = collections.defaultdict(lambda: (0, 0, 0.0))
    for one in together:
        count, size, sent = kinds[one.kind]
        kinds[one.kind] = count + one.times, size + one.bytes * one.times, sent + one.sent * one.times
    unknown = sum(passes is None for passes in module.loops.values())
    notes = [f"{times} calls of {name}, not counted" for name, times in hlo_cost.uncounted(module).items()]
    notes += [f"{unknown} loops of unknown length, counted as one pass"] * bool(unknown)
    return Compiled(
        memory=memory_of(step, program),
        flops=sum(op.flops * op.times for op in ops),
        xla_flops=xla_flops,
        bytes=sum(op.bytes * op.times for op in ops),
        collectives=dict(kinds),
        estimate=estimate(ops, together, topology, step.count.kernels),
        notes=tuple(notes),
        allocations=tuple(largest(module, Lines(text))),
        seconds=seconds,
    )


def estimate(ops, collectives, topology: Topology, kernel_flops: int = 0) -> Estimate | None:
    """From peaks and bandwidths of the chip, `kernel_flops` being of all chips; None where they are not known."""
    chip = topology.chip
    if not chip.flops:
        return None
    roofline = sum(op.times * max(op.flops / chip.flops, op.bytes / chip.bandwidth) for op in ops)
    cycles = sum(op.times * op.cycles for op in ops) / chip.clock if chip.clock else 0.0
    sending = sum(c.sent * c.times for c in collectives) / chip.links
    return Estimate(roofline, cycles, sending, kernel_flops / topology.count / chip.flops)
