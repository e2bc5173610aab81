"""Reads the text of a compiled program: instructions, which computation calls which, and how often each one runs.

XLA's own cost analysis counts the body of a loop once, whatever the number of its passes. Here it counts as often as it runs.
"""

import collections
import dataclasses
import math
import re

BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{[^{}]*?(?:S\((\d+)\))?\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r"\s*([\w-]+)\(")
_CALLED = re.compile(r"(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of one array. `space` 0 is the device's main memory; TPUs keep others in on-chip memories."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Without padding; types of less than a byte count as packed."""
        digits = re.search(r"\d+", self.dtype)
        size = BYTES.get(self.dtype, int(digits[0]) / 8 if digits else 0)
        return math.ceil(math.prod(self.dims) * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its name, what it gives, what it does, the names it takes, and everything behind the operands as text."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str

    @property
    def called(self) -> list[tuple[str, str]]:
        """(role, computation) of every computation that it names."""
        found = _CALLED.findall(self.rest)
        for names in _BRANCHES.findall(self.rest):
            found += [("branch", name.strip().lstrip("%")) for name in names.split(",") if name.strip()]
        return found

    @property
    def source(self) -> str:
        """Where in the traced program it is from, `jit(step)/encoder/block0/...`; empty where XLA made it up."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: {name: its instructions by name}, callees before callers.
      times: how often each computation runs when the program runs once; 0 for what is never called.
      fused: computations that are the inside of one instruction, whose intermediate results reach no memory.
      loops: {name of a loop: its passes}, None where the text does not tell; such a body counts as one pass.
    """

    computations: dict[str, dict[str, Instruction]]
    times: dict[str, int]
    fused: frozenset[str]
    loops: dict[str, int | None]

    def arrays(self, computation: str, name: str) -> tuple[Array, ...]:
        """The type of an operand."""
        instruction = self.computations[computation].get(name)
        return instruction.arrays if instruction else ()

    def running(self):
        """(computation, instruction, times) of every instruction that runs."""
        for computation, instructions in self.computations.items():
            for instruction in instructions.values():
                if self.times[computation]:
                    yield computation, instruction, self.times[computation]


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    return len(text)


def arrays_of(text: str) -> tuple[Array, ...]:
    """The arrays of a type, a tuple's one after the other."""
    return tuple(
        Array(dtype, tuple(map(int, filter(None, dims.split(",")))), int(space or 0))
        for dtype, dims, space in _SHAPE.findall(text)
    )


def read_instruction(line: str) -> Instruction | None:
    """The instruction of a line; None where it is none."""
    named = _NAME.match(line)
    if not named:
        return None
    start = named.end()
    end = _closing(line, start) if line[start] == "(" else line.find(" ", start)
    opcode = _OPCODE.match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    operands = tuple(re.findall(r"%([\w.-]+)", inside)) if opcode[1] != "constant" else ()
    return Instruction(named[1], arrays_of(line[start:end]), opcode[1], operands, inside, line[close:])


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`. Raises: ValueError, the text is no program."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (instruction := read_instruction(line)):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text holds no ENTRY computation: it is no compiled HLO program")
    return _with_times(computations, entry)


def _with_times(computations, entry) -> Module:
    times, fused, loops = collections.Counter({entry: 1}), set(), {}
    for name in reversed(computations):  # callers stand behind what they call
        for instruction in computations[name].values():
            for role, callee in instruction.called:
                if role == "to_apply" and instruction.opcode != "call":
                    continue  # of a reduction, a sort or a scatter: run for each element, and of no weight
                passes = 1
                if role in ("body", "condition"):
                    passes = loops[instruction.name] = _passes(instruction, computations)
                    passes = 1 if passes is None else passes
                times[callee] += times[name] * passes
                if instruction.opcode == "fusion" or name in fused:
                    fused.add(callee)
    return Module(computations, {name: times[name] for name in computations}, frozenset(fused), loops)


def _passes(loop: Instruction, computations) -> int | None:
    """How often a loop runs: what XLA says, or else the bound that its condition compares a counter from 0 with."""
    known = re.search(r"known_trip_count[^\d]*(\d+)", loop.rest)
    if known:
        return int(known[1])
    condition = dict(loop.called).get("condition")
    bounds = _integers(condition, computations)
    return bounds[0] if len(bounds) == 1 and _compares(condition, computations) else None


def _inside(computation: str, computations):
    """The instructions of a computation and of those fused into it."""
    for instruction in computations.get(computation, {}).values():
        yield instruction
        if instruction.opcode == "fusion":
            yield from _inside(dict(instruction.called)["calls"], computations)


def _integers(computation: str, computations) -> list[int]:
    found = (i for i in _inside(computation, computations) if i.opcode == "constant")
    return [int(i.inside) for i in found if i.arrays[0].dtype in ("s32", "u32", "s64") and re.fullmatch(r"\d+", i.inside)]


def _compares(computation: str, computations) -> bool:
    return any(i.opcode == "compare" and "direction=LT" in i.rest for i in _inside(computation, computations))
