"""A plan as text and as data."""

import dataclasses
import re

from cvmae.performance.chips import GIB, Topology
from cvmae.performance.compile import Compiled
from cvmae.performance.oom import Allocation, TooLarge

DAY = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Run:
    """What the step is part of: the config as it was given, clips of a batch, steps, training clips and where their number is
    from, operations of the step on all chips as traced and as the model asks for."""

    config: str
    mesh: dict[str, int]
    batch: int
    steps: int
    clips: int
    clips_source: str
    traced_flops: int
    model_flops: int


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.2f} MiB"


def si(number: float, unit: str) -> str:
    """`8.84 TFLOP`, in powers of a thousand."""
    power = next((p for p in range(5, 0, -1) if abs(number) >= 1000**p), 0)
    return f"{number / 1000**power:.4g} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}"


def allocation_line(one: Allocation) -> str:
    """`3 x 0.19 GiB bf16[32,1569,2048]  decoder/blocks/block*/mlp_out (flax/linen/linear.py:287)`."""
    # Of several operations that XLA made one, the first: `jit(step)/(a:b:c)`.
    where = re.sub(r"^jit\(\w+\)/", "", one.operator).lstrip("(").partition(":")[0] or "no name"
    return f"{one.count} x {gib(one.bytes)} {one.shape}  {where}" + (f" ({one.line})" if one.line else "")


def header(run: Run, topology: Topology) -> list[str]:
    """What was compiled for what."""
    axes = ", ".join(f"{name} {size}" for name, size in run.mesh.items())
    return [
        f"{run.config} on {topology.name}" + (f" x {topology.slices} slices" if topology.slices > 1 else ""),
        f"  {topology.count} chips ({axes}), batch {run.batch} = {run.batch / topology.count:g} a chip",
    ]


def memory_lines(found: Compiled, topology: Topology) -> list[str]:
    """Per chip, in the order in which people ask."""
    m, hbm = found.memory, topology.chip.hbm
    rows = [
        ("parameters", m.parameters),
        ("optimizer state", m.optimizer),
        ("moving average", m.ema),
        ("frozen, statistics", m.other),
    ]
    rows += [("batch", m.batch), ("padding of these", m.arguments - m.parameters - m.optimizer - m.ema - m.other - m.batch)]
    rows += [("activations and other temporaries", m.temporary), ("results of their own", m.outputs), ("program", m.code)]
    lines = [f"    {name:<36}{gib(size):>12}" for name, size in rows if size > 0]
    share = f" of {gib(hbm)}, {100 * m.total / hbm:.0f} %" if hbm else " (the device's memory is not known: --hbm_gib)"
    return ["  memory of a chip", *lines, f"    {'total':<36}{gib(m.total):>12}{share}"]


def work_lines(found: Compiled, run: Run, topology: Topology) -> list[str]:
    """Operations, bytes and collectives of a step."""
    lines = [
        "  work of a step",
        f"    {'operations, all chips':<36}{si(found.flops * topology.count, 'FLOP')} as compiled, "
        f"{si(run.traced_flops, 'FLOP')} from the shapes traced; the model's own {si(run.model_flops, 'FLOP')}, "
        f"{si(run.model_flops / run.batch, 'FLOP')} a clip",
        f"    {'main memory, a chip':<36}{si(found.bytes, 'B')} read and written",
    ]
    for kind, (count, size, sent) in sorted(found.collectives.items()):
        lines.append(f"    {kind:<36}{count}, {si(size, 'B')} together; a chip sends {si(sent, 'B')}")
    return lines + ([] if found.collectives else ["    no collectives"]) + [f"    note: {note}" for note in found.notes]


def estimate_lines(found: Compiled, run: Run, topology: Topology) -> list[str]:
    """Times, said to be estimates."""
    e, chip = found.estimate, topology.chip
    if e is None:
        return ["  no estimate of time: no peak is known of this chip"]
    parts = [f"roofline {e.roofline * 1e3:.1f} ms"] + [f"XLA's cycle counts {e.cycles * 1e3:.1f} ms"] * bool(e.cycles)
    seconds = e.step * run.steps
    mfu = run.model_flops / (e.step * topology.count * chip.flops)
    return [
        "  estimate, not a measurement: from the chip's published peaks, nothing of it was run",
        f"    {si(chip.flops, 'FLOP/s')}, {si(chip.bandwidth, 'B/s')} of memory, {si(chip.links, 'B/s')} of links a chip",
        f"    step {e.step * 1e3:.1f} ms: the larger of {', '.join(parts)}"
        + f"{f', kernels at peak {e.kernels * 1e3:.1f} ms' if e.kernels else ''}, and collectives {e.collectives * 1e3:.1f} ms"
        + ("" if topology.slices == 1 else " (as within a slice; the network between slices is slower)"),
        f"    {run.batch / e.step:.0f} clips/s, MFU {100 * mfu:.0f} %",
        f"    {run.steps} steps over {run.clips} clips ({run.clips_source}): {seconds / DAY:.2f} days, "
        f"{seconds / 3600 * topology.count:.0f} chip-hours, input and evaluation left out",
    ]


def fitting(found: Compiled, run: Run, topology: Topology) -> list[str]:
    """The plan of a program that fits."""
    lines = memory_lines(found, topology) + work_lines(found, run, topology) + estimate_lines(found, run, topology)
    return [*lines, f"  compiled here in {found.seconds:.0f} s"]


def too_large(refusal: TooLarge, allocations, notes: list[str], config) -> list[str]:
    """Why it does not fit, and what to change."""
    used = f": needs {gib(refusal.used)} of {gib(refusal.available)}" if refusal.used else ""
    lines = [f"  does not fit a chip's memory{used}", *(f"  {note}" for note in notes)]
    lines += [f"    {number}. {allocation_line(one)}" for number, one in enumerate(allocations[:3], 1)]
    changes = ["a smaller --batch", "more chips"]
    if "accumulate" in config:
        changes.append(f"--config.accumulate={2 * config.accumulate} (contrastive negatives are then those of a part)")
    if config.remat != "full":
        changes.append("--config.remat=full, or dots, which computes less again")
    if config.mesh.fsdp == 1:
        changes.append("--mesh=data:-1,fsdp:N (parameters and optimizer divided)")
    if config.dtype == "float32":
        changes.append("--config.dtype=bfloat16")
    return [*lines, "  what to change: " + "; ".join(changes), "  --search looks for the largest batch that fits"]


def as_data(found: Compiled | TooLarge, run: Run, topology: Topology) -> dict:
    """For --json; sizes in bytes, times in seconds."""
    data = {"run": dataclasses.asdict(run), "topology": dataclasses.asdict(topology) | {"chips": topology.count}}
    if isinstance(found, TooLarge):
        return data | {"fits": False} | dataclasses.asdict(found)
    data |= {"fits": True} | dataclasses.asdict(found)
    data["memory"]["total"] = found.memory.total
    if found.estimate:
        seconds = found.estimate.step
        data["estimate"] |= {"step": seconds, "clips_per_second": run.batch / seconds, "days": seconds * run.steps / DAY}
        data["estimate"]["chip_hours"] = seconds * run.steps * topology.count / 3600
    return data
