"""Which arrays are alive when a scheduled program needs most: the likely reason where it needs too much."""

import collections
import dataclasses
import pathlib
import re

from cvmae.performance.hlo import Instruction, Module
from cvmae.performance.oom import Allocation

_SAME = ("bitcast", "opt-barrier", "while", "copy-done")


class Lines:
    """The tables at the head of a program's text: files, places in them, and call stacks."""

    def __init__(self, text: str):
        head = text.split("\n%", 1)[0].split("\nENTRY", 1)[0]
        self.files = {int(n): name for n, name in re.findall(r'^(\d+) "([^"]*)"$', _table(head, "FileNames"), re.M)}
        places = re.findall(r"^(\d+) \{file_name_id=(\d+) .*?line=(\d+)", _table(head, "FileLocations"), re.M)
        self.places = {int(n): (self.files.get(int(file), ""), int(line)) for n, file, line in places}
        frames = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", _table(head, "StackFrames"), re.M)
        self.frames = {int(n): (int(place), int(parent or 0)) for n, place, parent in frames}

    def of(self, instruction: Instruction) -> str:
        """`cvmae/models/vit.py:104`: of the innermost function of this package, or else of all; '' where nobody says."""
        frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        stack = self._stack(int(frame[1])) if frame else re.findall(r'source_file="([^"]*)" source_line=(\d+)', instruction.rest)
        if not stack:
            return ""
        file, line = next((place for place in stack if place[0].startswith(PACKAGE)), stack[0])
        return f"{short(file)}:{line}"

    def _stack(self, frame: int) -> list[tuple[str, int]]:
        found, seen = [], set()
        while frame in self.frames and frame not in seen:
            seen.add(frame)
            place, frame = self.frames[frame]
            found.append(self.places.get(place, ("", 0)))
        return found


def short(file: str) -> str:
    """A file of this or another package by its path from the package on."""
    if file.startswith(PACKAGE):
        return pathlib.Path("cvmae", pathlib.Path(file).relative_to(PACKAGE)).as_posix()
    return file.rpartition("/site-packages/")[2]


def _table(head: str, name: str) -> str:
    found = re.search(rf"^{name}\n(.*?)(?:\n\n|\Z)", head, re.S | re.M)
    return found[1] if found else ""


class _Life:
    """The buffers of one computation: who makes them, and when they are last used."""

    def __init__(self, module: Module, computation: str):
        self.module, self.order = module, list(module.computations[computation].values())
        self.buffers: dict[str, list] = {}
        self.made: dict[int, tuple[int, Instruction, int]] = {}  # buffer: (when, by whom, bytes)
        self.last: dict[int, int] = {}
        self.named: dict[int, Instruction] = {}  # the first to use a buffer, for those whose maker has no name
        for when, instruction in enumerate(self.order):
            used = [buffer for name in instruction.operands for buffer in self.buffers.get(name, [])]
            for buffer in filter(None, used):
                self.last[buffer] = when
                if instruction.source:
                    self.named.setdefault(buffer, instruction)
            self.buffers[instruction.name] = self._give(when, instruction, used)
        self.kept = set(self.buffers[self.order[-1].name])  # results: most take the place of an argument

    def _give(self, when, instruction, used) -> list:
        opcode = instruction.opcode
        if opcode in ("parameter", "constant"):
            return [None] * len(instruction.arrays)
        if opcode == "tuple":
            return used
        if opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", instruction.rest)[1])
            return [used[index]] if index < len(used) else []
        if opcode in _SAME and len(used) >= len(instruction.arrays):
            return used[: len(instruction.arrays)]
        new = [self._make(when, instruction, array) for array in instruction.arrays]
        return [new[0], *used[:1], *new[2:]] if opcode == "copy-start" else new

    def maker(self, buffer: int) -> Instruction:
        """The instruction that says where a buffer is from."""
        made = self.made[buffer][1]
        return made if made.source else dataclasses.replace(made, rest=self.named.get(buffer, made).rest)

    def _make(self, when, instruction, array) -> int:
        buffer = len(self.made) + 1
        self.made[buffer] = (when, instruction, 0 if array.space else array.bytes)
        return buffer


def peak(module: Module, computation: str) -> tuple[int, list[tuple[int, Instruction]]]:
    """(bytes, (bytes, maker) of each array) at the moment when a computation holds most, beside its arguments and results."""
    life = _Life(module, computation)
    ends = collections.defaultdict(list)
    for buffer in life.made:
        ends[life.last.get(buffer, life.made[buffer][0])].append(buffer)
    starts = collections.defaultdict(list)
    for buffer, (when, _, size) in life.made.items():
        if size and buffer not in life.kept:
            starts[when].append(buffer)
    alive, total, best = {}, 0, (0, [])
    for when, instruction in enumerate(life.order):
        for buffer in starts[when]:
            alive[buffer] = life.made[buffer][2]
            total += alive[buffer]
        inner = (0, [])
        if instruction.opcode == "while":
            inner = peak(module, dict(instruction.called)["body"])
        if total + inner[0] > best[0]:
            best = (total + inner[0], [(size, life.maker(buffer)) for buffer, size in alive.items()] + inner[1])
        for buffer in ends[when]:
            total -= alive.pop(buffer, 0)
    return best


def largest(module: Module, lines: Lines, count: int = 3) -> list[Allocation]:
    """The largest arrays at the peak; those of different layers that are otherwise alike as one, by what they hold together."""
    entry = next(name for name, instructions in reversed(module.computations.items()) if instructions)
    groups = collections.defaultdict(list)
    for size, instruction in peak(module, entry)[1]:
        source = re.sub(r"block\d+", "block*", instruction.source)
        dtypes = {f"{a.dtype}[{','.join(map(str, a.dims))}]" for a in instruction.arrays if a.bytes == size}
        groups[size, min(dtypes, default=""), source, lines.of(instruction)].append(instruction)
    order = sorted(groups, key=lambda key: -key[0] * len(groups[key]))
    return [Allocation(key[0], *key[1:], count=len(groups[key])) for key in order[:count]]


PACKAGE = str(pathlib.Path(__file__).parent.parent)
