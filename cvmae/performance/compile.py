"""Compiles a traced step for its devices, and reads memory, work, collectives and an estimate of the time off the program."""

import collections
import dataclasses
import time

import jax

from cvmae.performance import hlo, hlo_cost
from cvmae.performance.chips import Topology
from cvmae.performance.gpu_report import GPUWork, kernels_by_kind, slow_products
from cvmae.performance.memory import Memory, memory_of
from cvmae.performance.oom import Allocation, TooLarge, read_refusal
from cvmae.performance.peak import largest_arrays
from cvmae.performance.traced_step import TracedStep

# Autotuning runs kernels on the GPU, which is not here. Without it Triton's products get tiles that do not fit, so all of them are
# cuBLAS's, which on the GPU some are. Collectives are scheduled as launch/gpu_environment.sh has them.
_GPU_OPTIONS = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_enable_latency_hiding_scheduler": True,
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step by what bounds it: an estimate from published peaks, not a measurement.

    Attributes:
      roofline: the sum over operations, kernels left out, of the larger of FLOP over peak and bytes over bandwidth. A lower
        bound: vector units and latencies are left out.
      cycles: XLA's own cycle counts over the clock, or 0 if it has no counts. They include vector units and no collective.
        Operations without a count, such as gathers, have that of the roofline.
      collectives: bytes sent over the links, as if nothing were computed at the same time.
      kernels: of Pallas kernels, which XLA does not count: the larger of FLOP over peak, with lanes rounded up, and bytes over
        bandwidth. A lower bound too: the vector work inside them is left out.
      no_cycles: the part of `cycles` without a count of XLA's.
    """

    roofline: float
    cycles: float
    collectives: float
    kernels: float = 0.0
    no_cycles: float = 0.0

    @property
    def step(self) -> float:
        """The larger of roofline and cycles, plus kernels and collectives."""
        return max(self.roofline, self.cycles) + self.kernels + self.collectives


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """Memory and work of a compiled program on one device, per step.

    Attributes:
      memory: in bytes.
      flops: of matrix products, as compiled.
      xla_flops: XLA's own count, which includes elementwise work and counts each loop body once.
      bytes: of main memory, read and written, with the padding of tiles.
      collectives: {kind: (runs, bytes of their results, bytes that a device sends)}.
      estimate: of the time; None where the chip's peaks are not known.
      notes: of what could not be counted.
      allocations: the largest arrays at the peak of memory.
      seconds: that the compilation took here.
      gpu: the kernels of a GPU; None for other chips.
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
    gpu: GPUWork | None = None


def compile_step(step: TracedStep, topology: Topology) -> ProgramCost | TooLarge:
    """Compiles a step; a program that the compiler refuses for its memory gives `TooLarge`.

    Raises:
      jax.errors.JaxRuntimeError: the compiler fails for another reason.
    """
    begin = time.perf_counter()
    try:
        if topology.chip.gpu:
            program = step.traced.lower(lowering_platforms=("cuda",)).compile(compiler_options=dict(_GPU_OPTIONS))
        else:
            program = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = read_refusal(str(error))
        if refusal is None:
            raise
        # The compiler knows the chip's memory, not that of --hbm_gib.
        return dataclasses.replace(refusal, available=topology.chip.hbm) if topology.memory_given else refusal
    return _program_cost(step, topology, program, time.perf_counter() - begin)


def _program_cost(step: TracedStep, topology: Topology, program, seconds: float) -> ProgramCost:
    text = program.as_text()
    module = hlo.parse(text)
    lines, chip = hlo.SourceLines(text), topology.chip
    ops, collectives = hlo_cost.ops(module, chip), hlo_cost.collectives(module, topology.count)
    kinds: dict[str, tuple[int, int, float]] = collections.defaultdict(lambda: (0, 0, 0.0))
    for c in collectives:
        count, size, sent = kinds[c.kind]
        kinds[c.kind] = count + c.times, size + c.bytes * c.times, sent + c.sent * c.times
    notes = [
        f"{times} calls of {name}: their bytes are counted, their operations only as traced"
        for name, times in hlo_cost.uncounted(module).items()
    ]
    unknown = sum(iterations is None for iterations in module.loops.values())
    if unknown:
        notes.append(f"{unknown} loops of unknown length, counted as one iteration")
    return ProgramCost(
        memory=memory_of(step, program),
        flops=sum(op.flops * op.times for op in ops),
        xla_flops=(program.cost_analysis() or {}).get("flops", 0.0),
        bytes=sum(op.bytes * op.times for op in ops),
        collectives=dict(kinds),
        estimate=estimate(ops, collectives, topology, step.flops.kernel_lanes),
        notes=tuple(notes),
        allocations=tuple(largest_arrays(module, lines)),
        seconds=seconds,
        gpu=GPUWork(step.attention, tuple(slow_products(module, lines, chip)), kernels_by_kind(ops)) if chip.gpu else None,
    )


def estimate(ops, collectives, topology: Topology, kernel_flops: int = 0) -> Estimate | None:
    """Estimates the time of a step from the chip's peaks; None where they are not known.

    Args:
      ops: of one device, for its chip, see `hlo_cost.ops`.
      collectives: of one device, see `hlo_cost.collectives`.
      topology: the chips.
      kernel_flops: operations of Pallas kernels on all chips, as the matrix units do them.
    """
    chip = topology.chip
    if not chip.flops:
        return None

    def bound(op: hlo_cost.Op) -> float:
        return op.times * max((op.flops + op.slow_flops) / chip.flops, op.bytes / chip.bandwidth)

    own = [op for op in ops if not op.kernel]
    cycles, no_cycles = 0.0, 0.0
    if chip.clock:
        no_cycles = sum(bound(op) for op in own if not op.cycles and not op.overlaps)
        cycles = sum(op.times * op.cycles for op in own) / chip.clock + no_cycles
    sending = sum(c.sent * c.times for c in collectives) / chip.links
    kernel_bytes = sum(op.times * op.bytes for op in ops if op.kernel)
    kernels = max(kernel_flops / topology.count / chip.flops, kernel_bytes / chip.bandwidth)
    return Estimate(sum(map(bound, own)), cycles, sending, kernels, no_cycles)
