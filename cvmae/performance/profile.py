"""The time of a compiled program by kind of operation and by part of the model, from JAX's profiler."""

import collections
import dataclasses
import pathlib
import re
import tempfile

import jax

from cvmae.performance import hlo, hlo_cost

# Pattern of an instruction's opcode; first match wins.
KINDS = (
    ("matrix products", r"^(dot|convolution)"),
    ("collectives", "|".join(hlo_cost.COLLECTIVES)),
    ("sorts", r"^sort"),
    ("scatters", r"^scatter"),
    ("gathers and slices", r"^(gather|dynamic-slice|dynamic-update-slice|slice|take)"),
    ("copies, transposes", r"^(copy|transpose|reshape|pad|concatenate|bitcast|broadcast)"),
    ("reductions", r"^(reduce|argm)"),
    ("custom calls", r"^custom-call"),
)
_CALLERS = ("while", "call", "conditional")  # their time is that of the instructions that they run


@dataclasses.dataclass(frozen=True)
class Profile:
    """Seconds of a run, summed over the operations of all devices.

    Attributes:
      kinds: {name of KINDS or `elementwise`: seconds}.
      sources: {traced operation, equal ones of different layers as one: seconds}.
    """

    kinds: dict[str, float]
    sources: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of all operations."""
        return sum(self.kinds.values())

    def lines(self, count: int = 12) -> list[str]:
        """Returns the lines to print, the `count` most expensive rows of each table first."""
        lines = [f"  where the time goes: {1e3 * self.total:.1f} ms of operations per run"]
        for table in (self.kinds, self.sources):
            for name, seconds in sorted(table.items(), key=lambda item: -item[1])[:count]:
                lines.append(f"    {100 * seconds / max(self.total, 1e-12):5.1f} %  {name}")
            lines.append("")
        return lines[:-1]


def kind_of(module: hlo.Module, computation: str, instruction: hlo.Instruction) -> str:
    """Returns a name of KINDS, or `elementwise`; a fusion with a matrix product inside is a matrix product."""
    opcodes = [i.opcode for i in (instruction, *_fused(module, instruction))]
    for name, pattern in KINDS:
        decides = name in ("matrix products", "sorts", "scatters", "collectives")  # wherever in a fusion it is
        if any(re.match(pattern, opcode) for opcode in (opcodes if decides else opcodes[:1])):
            return name
    if instruction.opcode == "fusion":
        return next(
            (name for name in ("reductions", "gathers and slices") if any(re.match(dict(KINDS)[name], o) for o in opcodes)),
            "elementwise",
        )
    return "elementwise"


def _fused(module, instruction):
    """Yields the instructions fused into one."""
    for role, callee in instruction.called:
        if role == "calls" and callee in module.computations:
            for inner in module.computations[callee].values():
                yield inner
                yield from _fused(module, inner)


def part_of(source: str) -> str:
    """Formats a traced operation without layer numbers, behind its direction: `backward decoder/blocks/block*/norm1/mul`."""
    first = re.sub(r"^jit\(\w+\)/", "", source).lstrip("(").partition(":")[0]
    direction = "backward " if "transpose(" in first else "forward " if "jvp(" in first else ""
    words = [
        re.sub(r"block\d+", "block*", word) for word in first.split("/") if not re.match(r"(transpose|jvp|jit|vmap)\(", word)
    ]
    return (direction + "/".join(words)) or "without a name"


def profile(run, text: str, runs: int = 2) -> Profile:
    """Profiles a compiled program.

    Args:
      run: runs it once and waits for the result.
      text: of the program.
      runs: the number of calls; the times are their mean.
    """
    module = hlo.parse(text)
    known = {i.name: (computation, i) for computation, instructions in module.computations.items() for i in instructions.values()}
    kinds: dict[str, float] = collections.defaultdict(float)
    sources: dict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                run()
        [file] = pathlib.Path(folder).rglob("*.xplane.pb")
        for name, seconds in _events(jax.profiler.ProfileData.from_file(str(file))):
            if name not in known or known[name][1].opcode in _CALLERS:
                continue
            computation, instruction = known[name]
            kinds[kind_of(module, computation, instruction)] += seconds / runs
            sources[part_of(instruction.source)] += seconds / runs
    return Profile(dict(kinds), dict(sources))


def _events(data):
    """Yields (name of the HLO instruction, seconds) of every event."""
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op") if event.duration_ns else None
                if name:
                    yield name, event.duration_ns / 1e9
