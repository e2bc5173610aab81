"""Parser for the text of a compiled program: instructions, the computations that they call, their run counts, and source lines.

XLA's own cost analysis counts the body of a loop once, whatever its number of iterations. Here it counts once per iteration.
"""

import collections
import dataclasses
import math
import pathlib
import re

PACKAGE = str(pathlib.Path(__file__).parent.parent)
PERFORMANCE = str(pathlib.Path(__file__).parent)  # its functions trace the model, and compute nothing of it
BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r"\s*([\w-]+)\(")
_CALLED = re.compile(r"(calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of one array.

    Attributes:
      dtype: as XLA writes it, `bf16`.
      dims: elements along each dimension.
      space: 0 is the device's main memory; TPUs number their on-chip memories from 1.
      padded_dims: `dims` rounded up to whole tiles, as the array lies in a TPU's memory; equal to `dims` where nothing is padded.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    padded_dims: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Size without padding; types of less than a byte count as packed."""
        return self._bytes(self.dims)

    @property
    def padded_bytes(self) -> int:
        """Size in memory, the padding of tiles included."""
        return self._bytes(self.padded_dims or self.dims)

    def _bytes(self, dims: tuple[int, ...]) -> int:
        digits = re.search(r"\d+", self.dtype)
        size = BYTES.get(self.dtype, int(digits[0]) / 8 if digits else 0)
        return math.ceil(math.prod(dims) * size)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a computation.

    Attributes:
      name: unique in the program.
      arrays: the types of its results.
      opcode: `dot`, `fusion`, `while`, ...
      operands: the names of its operands.
      inside: the text between the parentheses.
      rest: the text behind them.
    """

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str

    @property
    def called(self) -> list[tuple[str, str]]:
        """(role, computation) of every computation that it names."""
        calls = _CALLED.findall(self.rest)
        for names in _BRANCHES.findall(self.rest):
            calls += [("branch", name.strip().lstrip("%")) for name in names.split(",") if name.strip()]
        return calls

    @property
    def source(self) -> str:
        """The traced operation, `jit(step)/encoder/block0/...`; empty where XLA added the instruction."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: {name: its instructions by name}, callees before callers.
      times: runs of each computation per run of the program; 0 for those that are never called.
      fused: computations inside a single instruction, whose intermediate results never reach memory.
      loops: {name of a loop: its iterations}; None where the text does not show them, and the body then counts once.
    """

    computations: dict[str, dict[str, Instruction]]
    times: dict[str, int]
    fused: frozenset[str]
    loops: dict[str, int | None]

    def arrays(self, computation: str, name: str) -> tuple[Array, ...]:
        """Returns the type of an operand."""
        instruction = self.computations[computation].get(name)
        return instruction.arrays if instruction else ()

    def running(self):
        """Yields (computation, instruction, times) of every instruction that runs."""
        for computation, instructions in self.computations.items():
            for instruction in instructions.values():
                if self.times[computation]:
                    yield computation, instruction, self.times[computation]


def parse(text: str) -> Module:
    """Parses `compiled.as_text()`. Raises: ValueError, the text is not a compiled program."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (instruction := read_instruction(line)):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not a compiled HLO program")
    return _count_runs(computations, entry)


def read_instruction(line: str) -> Instruction | None:
    """Parses one line; None where it is not an instruction."""
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


def arrays_of(text: str) -> tuple[Array, ...]:
    """Parses a type; a tuple gives its arrays in order."""
    arrays = []
    for dtype, sizes, layout in _SHAPE.findall(text):
        dims = tuple(map(int, filter(None, sizes.split(","))))
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(Array(dtype, dims, int(space[1]) if space else 0, _whole_tiles(dims, layout)))
    return tuple(arrays)


def _whole_tiles(dims: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Rounds dimensions up to whole tiles of a layout.

    `1,0:T(8,128)(2,1)` lists the dimensions from the one whose elements are neighbors in memory, and tiles of 8 x 128 over the
    first two of them; further tiles lie inside the first. See "Tiled layout", openxla.org/xla/tiled_layout.
    """
    order, _, tiles = layout.partition(":")
    first = re.match(r"T\(([\d,]+)\)", tiles)
    padded = list(dims)
    if first and order:
        for dim, side in zip(map(int, order.split(",")), map(int, reversed(first[1].split(",")))):
            padded[dim] = -(-padded[dim] // side) * side
    return tuple(padded)


def _closing(text: str, start: int) -> int:
    """Returns the index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index + 1
    return len(text)


def _count_runs(computations: dict[str, dict[str, Instruction]], entry: str) -> Module:
    times = collections.Counter({entry: 1})
    fused: set[str] = set()
    loops: dict[str, int | None] = {}
    for name in reversed(computations):  # callers stand behind their callees
        for instruction in computations[name].values():
            for role, callee in instruction.called:
                if role == "to_apply" and instruction.opcode != "call":
                    continue  # of a reduction, a sort or a scatter: runs once per element, and costs next to nothing
                iterations = 1
                if role in ("body", "condition"):
                    known = loops[instruction.name] = _iterations(instruction, computations)
                    iterations = 1 if known is None else known
                times[callee] += times[name] * iterations
                if instruction.opcode == "fusion" or name in fused:
                    fused.add(callee)
    return Module(computations, {name: times[name] for name in computations}, frozenset(fused), loops)


def _iterations(loop: Instruction, computations) -> int | None:
    """Returns the iterations of a loop: XLA's annotation, else the bound that its condition compares a counter from 0 with."""
    annotated = re.search(r"known_trip_count[^\d]*(\d+)", loop.rest)
    if annotated:
        return int(annotated[1])
    condition = dict(loop.called).get("condition", "")
    bounds = _integer_constants(condition, computations)
    return bounds[0] if len(bounds) == 1 and _has_less_than(condition, computations) else None


def _with_fused(computation: str, computations):
    """Yields the instructions of a computation and of those fused into it."""
    for instruction in computations.get(computation, {}).values():
        yield instruction
        if instruction.opcode == "fusion":
            yield from _with_fused(dict(instruction.called)["calls"], computations)


def _integer_constants(computation: str, computations) -> list[int]:
    constants = (i for i in _with_fused(computation, computations) if i.opcode == "constant")
    return [int(i.inside) for i in constants if i.arrays[0].dtype in ("s32", "u32", "s64") and re.fullmatch(r"\d+", i.inside)]


def _has_less_than(computation: str, computations) -> bool:
    return any(i.opcode == "compare" and "direction=LT" in i.rest for i in _with_fused(computation, computations))


class SourceLines:
    """The tables at the head of a program's text, which map instructions to lines of Python: files, locations, call stacks."""

    def __init__(self, text: str):
        head = text.split("\n%", 1)[0].split("\nENTRY", 1)[0]
        files = {int(n): name for n, name in re.findall(r'^(\d+) "([^"]*)"$', _table(head, "FileNames"), re.M)}
        locations = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)", _table(head, "FileLocations"), re.M)
        self.locations = {int(n): (files.get(int(file), ""), int(line)) for n, file, line in locations}
        frames = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", _table(head, "StackFrames"), re.M)
        self.frames = {int(n): (int(location), int(parent or 0)) for n, location, parent in frames}

    def of(self, instruction: Instruction) -> str:
        """Returns `cvmae/models/vit.py:104`: the innermost line of the model, else the innermost one; '' where none is recorded."""
        frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        stack = self._stack(int(frame[1])) if frame else re.findall(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
        if not stack:
            return ""
        ours = (location for location in stack if location[0].startswith(PACKAGE) and not location[0].startswith(PERFORMANCE))
        file, line = next(ours, stack[0])
        return f"{_short_path(file)}:{line}"

    def _stack(self, frame: int) -> list[tuple[str, int]]:
        stack, seen = [], set()
        while frame in self.frames and frame not in seen:
            seen.add(frame)
            location, frame = self.frames[frame]
            stack.append(self.locations.get(location, ("", 0)))
        return stack


def _short_path(file: str) -> str:
    """Returns the path of a file from its package's folder on."""
    if file.startswith(PACKAGE):
        return pathlib.Path("cvmae", pathlib.Path(file).relative_to(PACKAGE)).as_posix()
    return file.rpartition("/site-packages/")[2]


def _table(head: str, name: str) -> str:
    match = re.search(rf"^{name}\n(.*?)(?:\n\n|\Z)", head, re.S | re.M)
    return match[1] if match else ""
