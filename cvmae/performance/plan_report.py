"""A plan as lines to print and as data for --json."""

import dataclasses
import math
import re

from cvmae.data.lines import counted
from cvmae.models.lanes_attention import LANES
from cvmae.performance.chips import GIB, Chip, Topology
from cvmae.performance.compile import Estimate, ProgramCost
from cvmae.performance.gpu_report import gpu_lines
from cvmae.performance.gpus import MEMORY_FRACTION
from cvmae.performance.oom import Allocation, TooLarge

DAY = 24 * 3600
# Of the loader, one thread, small files; measured with the command in README.md of this room. Larger frames and rarer keyframes take longer.
CLIPS_PER_CPU_SECOND = 27


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """The run that a step is part of.

    Attributes:
      config: --config as it was typed.
      mesh: sizes of its axes.
      batch: clips per step, on all chips.
      steps: of the run.
      clips: of the training split; clips_source: where that number comes from.
      traced_flops: operations of the step on all chips as traced, recomputation included.
      model_flops: those that the model needs, see `traced_step.model_flops`.
      hosts: machines that the chips are in, each of which decodes its own clips.
      decoders: threads that decode on each of them, config.data.workers x threads; 0 where no videos are decoded, None for auto.
      read_together: clips of a video that are one sample of the batch, config.probe.clips.
    """

    config: str
    mesh: dict[str, int]
    batch: int
    steps: int
    clips: int
    clips_source: str
    traced_flops: int
    model_flops: int
    hosts: int = 1
    decoders: int | None = 0
    read_together: int = 1


def gib(size: float) -> str:
    """Formats bytes, `8.46 GiB` or `0.74 MiB`."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.2f} MiB"


def si(number: float, unit: str) -> str:
    """Formats a number in powers of a thousand, `8.84 TFLOP`."""
    power = next((p for p in range(5, 0, -1) if abs(number) >= 1000**p), 0)
    return f"{number / 1000**power:.4g} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


def header(run: PlannedRun, topology: Topology) -> list[str]:
    """Returns the lines that name the config, the chips, the mesh and the batch."""
    axes = ", ".join(f"{name} {size}" for name, size in run.mesh.items())
    return [
        f"{run.config} on {topology.name}" + (f" x {topology.slices} slices" if topology.slices > 1 else ""),
        f"  {counted(topology.count, 'chip')} ({axes}), batch {run.batch} = {run.batch / topology.count:g} per chip",
    ]


def fits_lines(cost: ProgramCost, run: PlannedRun, topology: Topology) -> list[str]:
    """Returns the lines of a program that fits."""
    return [
        *memory_lines(cost, topology),
        *work_lines(cost, run, topology),
        *estimate_lines(cost, run, topology),
        f"  compiled here in {cost.seconds:.0f} s",
    ]


def memory_lines(cost: ProgramCost, topology: Topology) -> list[str]:
    """Returns the lines of the memory of one chip; rows of nothing are left out."""
    m, hbm = cost.memory, topology.chip.hbm
    rows = [
        ("parameters", m.parameters),
        ("optimizer state", m.optimizer),
        ("EMA of the parameters", m.ema),
        ("frozen parameters, statistics", m.other),
        ("batch", m.batch),
        ("padding of the rows above", m.arguments - m.parameters - m.optimizer - m.ema - m.other - m.batch),
        ("activations and other temporaries", m.temporary),
        ("results beside the state", m.outputs),
        ("program", m.code),
    ]
    lines = [f"    {name:<36}{gib(size):>12}" for name, size in rows if size > 0]
    limit = f" of {gib(hbm)}, {100 * m.total / hbm:.0f} %" if hbm else " (the device's memory is not known: give --hbm_gib)"
    if topology.memory_given:
        limit += " (--hbm_gib)"
    elif topology.chip.gpu:
        limit += f" ({MEMORY_FRACTION:g} of the GPU's, which launch/gpu.sh gives to JAX)"
    lines.append(f"    {'total':<36}{gib(m.total):>12}{limit}")
    if m.sharding_saves > 0:
        kept = "optimizer state and EMA are" if m.ema else "optimizer state is"
        lines.append(f"    {kept} sharded over the data axis: {gib(m.sharding_saves)} less (config.optimizer_sharding)")
    return ["  memory per chip", *lines]


def work_lines(cost: ProgramCost, run: PlannedRun, topology: Topology) -> list[str]:
    """Returns the lines of operations, memory traffic and collectives per step."""
    padded = "" if topology.is_cpu or topology.chip.gpu else ", padding of tiles included"
    lines = [
        "  work per step",
        f"    {'operations, all chips':<36}{si(cost.flops * topology.count, 'FLOP')} as compiled, "
        f"{si(run.traced_flops, 'FLOP')} as traced, {si(run.model_flops, 'FLOP')} of the model, "
        f"which is {si(run.model_flops / run.batch, 'FLOP')} per clip",
        f"    {'main memory, per chip':<36}{si(cost.bytes, 'B')} read and written{padded}",
    ]
    for kind, (count, size, sent) in sorted(cost.collectives.items()):
        lines.append(f"    {kind:<36}{count}, {si(size, 'B')} in total; each chip sends {si(sent, 'B')}")
    if not cost.collectives:
        lines.append("    no collectives")
    if cost.gpu:
        lines += gpu_lines(cost.gpu)
    return lines + [f"    note: {note}" for note in cost.notes]


def estimate_lines(cost: ProgramCost, run: PlannedRun, topology: Topology) -> list[str]:
    """Returns the lines of the estimated time of a step and of the run."""
    e, chip = cost.estimate, topology.chip
    if e is None:
        return ["  no estimate of time: the peak of this chip is not known"]
    bounds = f"roofline {e.roofline * 1e3:.1f} ms"
    if e.cycles:
        bounds = f"the larger of {bounds} and XLA's cycle counts {e.cycles * 1e3:.1f} ms"
        if e.no_cycles:
            bounds += f" ({e.no_cycles * 1e3:.1f} ms of it by bytes, where XLA gives no count: gathers, sorts)"
    if e.kernels:
        bounds += f", plus kernels at peak {e.kernels * 1e3:.1f} ms (lanes rounded up to {LANES})"
    network = "" if topology.slices == 1 else " (as within a slice; the network between slices is slower)"
    mfu = run.model_flops / (e.step * topology.count * chip.flops)
    return [
        "  estimate, not a measurement: from the chip's published peaks, nothing ran on it",
        f"    per chip {si(chip.flops, 'FLOP/s')}, {si(chip.bandwidth, 'B/s')} of memory, {si(chip.links, 'B/s')} of links",
        f"    step {e.step * 1e3:.1f} ms: {bounds}, plus collectives {e.collectives * 1e3:.1f} ms{network}",
        f"    {run.batch / e.step:.0f} clips/s, MFU {100 * mfu:.0f} %",
        f"    {run.steps} steps over {run.clips} clips ({run.clips_source}): {e.step * run.steps / DAY:.2f} days, "
        f"{e.step * run.steps / 3600 * topology.count:.0f} chip-hours, without input and evaluation",
        f"    not counted: {not_counted(e, chip)}",
        *input_lines(run, e.step),
    ]


def not_counted(e: Estimate, chip: Chip) -> str:
    """Returns what an estimate leaves out, so that a step takes longer."""
    if chip.gpu:
        return (
            "the rate that kernels reach of their peak (tiles are chosen by timing them on the GPU), the exponentials of attention, "
            "starts of kernels, latency of links, host"
        )
    parts = ["vector work inside kernels, such as the exponentials of a softmax"] if e.kernels else []
    parts.append(
        "waits for memory inside an operation" if e.cycles else "vector units, which XLA counts no cycles of for this chip"
    )
    return ", ".join([*parts, "latency of links, host"])


def input_lines(run: PlannedRun, step: float) -> list[str]:
    """Returns the lines of the clips that a host decodes, with a warning where it plainly cannot.

    Args:
      run: the run; nothing is returned where it decodes no videos.
      step: seconds of a step.
    """
    if run.decoders == 0:
        return []
    needed = run.read_together * run.batch / step / run.hosts
    cores = math.ceil(needed / CLIPS_PER_CPU_SECOND)
    assumed = f"{CLIPS_PER_CPU_SECOND} clips per CPU-second: 16 frames of 340x256 H.264 with a keyframe every 12"
    hosts = "the host decodes" if run.hosts == 1 else f"each of {run.hosts} hosts decodes"
    lines = [f"  input: {hosts} {needed:.0f} clips/s, {cores} cores at {assumed}"]
    if run.decoders is None:
        return [*lines, f"    config.data.workers=auto decodes on all cores of a host but one: take hosts of {cores + 1} or more"]
    most = run.decoders * CLIPS_PER_CPU_SECOND
    if needed > most:
        lines.append(
            f"    warning: data.workers x data.threads = {run.decoders} reach at most {most:.0f} clips/s, so the chips wait: "
            f"--config.data.workers={cores} or more on a host with as many cores, smaller files (prepare --transcode), or more hosts"
        )
    return lines


def too_large_lines(refusal: TooLarge, allocations, notes: list[str], config) -> list[str]:
    """Returns the lines of a program that does not fit: the largest arrays, and what to change.

    Args:
      refusal: the memory that it needs, and the memory that there is.
      allocations: the largest arrays first; three are shown.
      notes: lines above them.
      config: of the program.
    """
    used = f": it needs {gib(refusal.used)} of {gib(refusal.available)}" if refusal.used else ""
    changes = ["a smaller --batch", "more chips"]
    if "accumulate" in config:
        changes.append(f"--config.accumulate={2 * config.accumulate} (the negatives are then those of a micro-batch)")
    if config.remat != "full":
        changes.append("--config.remat=full, or kernels, which recomputes less")
    if config.mesh.fsdp == 1:
        changes.append("--mesh=data:-1,fsdp:N (shards parameters and gradients too)")
    if config.get("optimizer_sharding") == "replicated" and config.mesh.data != 1:
        changes.append("--config.optimizer_sharding=auto")
    if config.dtype == "float32":
        changes.append("--config.dtype=bfloat16")
    return [
        f"  does not fit in the memory of a chip{used}",
        *(f"  {note}" for note in notes),
        *(f"    {number}. {allocation_line(allocation)}" for number, allocation in enumerate(allocations[:3], 1)),
        "  what to change: " + "; ".join(changes),
        "  --search looks for the largest batch that fits",
    ]


def allocation_line(allocation: Allocation) -> str:
    """Formats `3 x 0.19 GiB bf16[32,1569,2048]  decoder/blocks/block*/mlp_out (flax/linen/linear.py:287)`."""
    # Where XLA fused several operations, the first of them: `jit(step)/(a:b:c)`.
    operator = re.sub(r"^jit\(\w+\)/", "", allocation.operator).lstrip("(").partition(":")[0] or "no name"
    line = f" ({allocation.line})" if allocation.line else ""
    return f"{allocation.count} x {gib(allocation.bytes)} {allocation.shape}  {operator}{line}"


def as_data(cost: ProgramCost | TooLarge, run: PlannedRun, topology: Topology) -> dict:
    """Returns the data for --json; sizes in bytes, times in seconds."""
    data = {"run": dataclasses.asdict(run), "topology": dataclasses.asdict(topology) | {"chips": topology.count}}
    if isinstance(cost, TooLarge):
        return data | {"fits": False} | dataclasses.asdict(cost)
    data |= {"fits": True} | dataclasses.asdict(cost)
    data["memory"]["total"] = cost.memory.total
    if cost.estimate:
        seconds = cost.estimate.step
        data["estimate"] |= {"step": seconds, "clips_per_second": run.batch / seconds, "days": seconds * run.steps / DAY}
        data["estimate"]["chip_hours"] = seconds * run.steps * topology.count / 3600
    return data
