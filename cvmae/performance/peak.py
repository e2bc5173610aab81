"""The arrays that are alive when a scheduled program needs most memory: the likely reason where it needs too much."""

import collections
import dataclasses
import re

from cvmae.performance.hlo import Instruction, Module, SourceLines
from cvmae.performance.oom import Allocation

_ALIASES = ("bitcast", "opt-barrier", "while", "copy-done")  # their results are their operands' buffers


class _Liveness:
    """The buffers of one computation: the instruction that allocates each, and the one that uses it last.

    Attributes:
      order: the instructions, as scheduled.
      allocated: {buffer: (index in `order`, instruction, bytes)}.
      last_use: {buffer: index in `order`}.
      results: buffers that the computation returns; most of them alias an argument.
    """

    def __init__(self, module: Module, computation: str):
        self.order = list(module.computations[computation].values())
        self.allocated: dict[int, tuple[int, Instruction, int]] = {}
        self.last_use: dict[int, int] = {}
        self._first_user: dict[int, Instruction] = {}  # of those with a source, for buffers whose instruction has none
        buffers: dict[str, list[int | None]] = {}  # None: an argument or a constant
        for index, instruction in enumerate(self.order):
            used = [buffer for name in instruction.operands for buffer in buffers.get(name, [])]
            for buffer in filter(None, used):
                self.last_use[buffer] = index
                if instruction.source:
                    self._first_user.setdefault(buffer, instruction)
            buffers[instruction.name] = self._results(index, instruction, used)
        self.results = set(buffers[self.order[-1].name])

    def named_instruction(self, buffer: int) -> Instruction:
        """Returns the instruction that allocates a buffer, with the source of its first user where it has none of its own."""
        instruction = self.allocated[buffer][1]
        if instruction.source:
            return instruction
        return dataclasses.replace(instruction, rest=self._first_user.get(buffer, instruction).rest)

    def _results(self, index, instruction, used) -> list:
        opcode = instruction.opcode
        if opcode in ("parameter", "constant"):
            return [None] * len(instruction.arrays)
        if opcode == "tuple":
            return used
        if opcode == "get-tuple-element":
            number = re.search(r"index=(\d+)", instruction.rest)
            assert number is not None  # every one has it
            element = int(number[1])
            return [used[element]] if element < len(used) else []
        if opcode in _ALIASES and len(used) >= len(instruction.arrays):
            return used[: len(instruction.arrays)]
        new = [self._allocate(index, instruction, array) for array in instruction.arrays]
        return [new[0], *used[:1], *new[2:]] if opcode == "copy-start" else new

    def _allocate(self, index, instruction, array) -> int:
        buffer = len(self.allocated) + 1
        self.allocated[buffer] = (index, instruction, 0 if array.space else array.padded_bytes)
        return buffer


_Held = tuple[int, list[tuple[int, Instruction]]]  # bytes, and (bytes, instruction) of each array


def peak(module: Module, computation: str) -> _Held:
    """Finds the moment when a computation holds most memory beside its arguments and results.

    Returns:
      The bytes held then, and (bytes, instruction that allocates it) of each array.
    """
    liveness = _Liveness(module, computation)
    starts, ends = collections.defaultdict(list), collections.defaultdict(list)
    for buffer, (index, _, size) in liveness.allocated.items():
        ends[liveness.last_use.get(buffer, index)].append(buffer)
        if size and buffer not in liveness.results:
            starts[index].append(buffer)
    alive: dict[int, int] = {}
    total = 0
    best: _Held = (0, [])
    for index, instruction in enumerate(liveness.order):
        for buffer in starts[index]:
            alive[buffer] = liveness.allocated[buffer][2]
            total += alive[buffer]
        inner: _Held = (0, [])
        if instruction.opcode == "while":
            inner = peak(module, dict(instruction.called)["body"])
        if total + inner[0] > best[0]:
            arrays = [(size, liveness.named_instruction(buffer)) for buffer, size in alive.items()]
            best = (total + inner[0], arrays + inner[1])
        for buffer in ends[index]:
            total -= alive.pop(buffer, 0)
    return best


def largest_arrays(module: Module, lines: SourceLines, count: int = 3) -> list[Allocation]:
    """Returns the arrays that hold most at the peak; equal arrays of different layers are one row, ordered by their sum."""
    entry = next(name for name, instructions in reversed(module.computations.items()) if instructions)
    groups = collections.defaultdict(list)
    for size, instruction in peak(module, entry)[1]:
        source = re.sub(r"block\d+", "block*", instruction.source)
        dtypes = {f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in instruction.arrays if a.padded_bytes == size}
        groups[size, min(dtypes, default=""), source, lines.of(instruction)].append(instruction)
    order = sorted(groups, key=lambda key: -key[0] * len(groups[key]))
    return [Allocation(*key, count=len(groups[key])) for key in order[:count]]
