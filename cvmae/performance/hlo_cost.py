"""The cost of a compiled program on one device: floating-point operations, bytes of main memory, bytes of collectives.

Operations are those of matrix products and convolutions, two for a multiplication with its addition. A loop body counts once per
iteration, see `hlo.Module.times`.
"""

import collections
import dataclasses
import math
import re

from cvmae.performance.chips import Chip
from cvmae.performance.hlo import Array, Instruction, Module
from cvmae.performance.hlo_flops import flops_of, flops_with_fused, target_of

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# They move nothing: views of existing buffers, or calls whose work is counted in the computations that they call.
_NO_TRAFFIC = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all", "domain"),
    *("partition-id", "replica-id", "opt-barrier", "async-start", "copy-done"),
}
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclasses.dataclass(frozen=True)
class Op:
    """An instruction that a device starts by itself, with everything fused into it.

    Attributes:
      opcode: of the instruction.
      source: the traced operation that it comes from.
      flops: operations of matrix products and convolutions.
      bytes: read from and written to main memory; on-chip traffic is left out.
      cycles: XLA's own estimate on TPU, 0 where it has none: gathers, sorts, kernels, and everything on other devices.
      times: runs per step.
      kernel: True for calls to code outside the program, such as Pallas kernels, whose operations the program's text does not show.
      slow_flops: further operations that the chip could do in bfloat16 in the time of its products in float32; 0 where no chip is known.
    """

    opcode: str
    source: str
    flops: int
    bytes: int
    cycles: int
    times: int
    kernel: bool = False
    slow_flops: int = 0

    @property
    def overlaps(self) -> bool:
        """True for copies that run beside other operations, and for collectives, whose time is that of the links."""
        return self.opcode.endswith("-start") or self.opcode in COLLECTIVES


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
      kind: one of COLLECTIVES.
      bytes: of its result on one device (of its operand, for reduce-scatter).
      group: the number of devices that take part.
      times: runs per step.
      source: the traced operation that it comes from.
    """

    kind: str
    bytes: int
    group: int
    times: int
    source: str

    @property
    def sent(self) -> float:
        """The least bytes that a device sends, on a ring: "Bandwidth optimal all-reduce" (Patarasuk and Yuan, 2009)."""
        others = (self.group - 1) / self.group
        return self.bytes * {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)


def ops(module: Module, chip: Chip | None = None) -> list[Op]:
    """Returns every operation of the program that a device starts by itself.

    Args:
      module: the program.
      chip: that the program is for, which gives `slow_flops`.
    """
    operations = []
    memo: dict[str, tuple[int, int]] = {}
    for computation, instruction, times in module.running():
        if computation in module.fused:
            continue
        flops, slow = flops_with_fused(module, computation, instruction, memo, chip)
        size = bytes_of(module, computation, instruction)
        cycles = re.search(r'estimated_cycles":"(\d+)"', instruction.rest)
        if flops or size or cycles:
            estimated = int(cycles[1]) if cycles else 0
            kernel = bool(target_of(instruction)) and not flops
            operations.append(Op(instruction.opcode, instruction.source, flops, size, estimated, times, kernel, slow))
    return operations


def uncounted(module: Module) -> dict[str, int]:
    """Returns {target: runs} of calls to code outside the program, such as Pallas kernels, whose operations are not counted."""
    calls: collections.Counter[str] = collections.Counter()
    for computation, instruction, times in module.running():
        if not flops_of(module, computation, instruction):
            calls[target_of(instruction)] += times
    return {name: times for name, times in calls.items() if name}


# Bytes of main memory.


def bytes_of(module: Module, computation: str, instruction: Instruction) -> int:
    """Returns the bytes that one run of an instruction moves to and from main memory, the padding of tiles included.

    Of a sliced or updated array it is the slice.
    """
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith(("-done", "-update")) or '"AllocateBuffer"' in instruction.rest:
        return 0
    operands = [module.arrays(computation, name) for name in instruction.operands]
    if target_of(instruction).startswith(
        "__cu"
    ):  # NVIDIA's libraries return a workspace, s8 or u8, of which they use what they need
        return _main_memory(tuple(a for a in instruction.arrays if a.dtype not in ("s8", "u8"))) + sum(
            map(_main_memory, operands)
        )
    if opcode in _SLICES:
        return 2 * _main_memory(instruction.arrays)
    if opcode == "dynamic-update-slice":
        return 2 * _main_memory(operands[1])
    if opcode == "copy-start":
        return _main_memory(instruction.arrays[:2])
    callee = dict(instruction.called).get("calls")
    if opcode != "fusion" or callee not in module.computations:
        return _main_memory(instruction.arrays) + sum(map(_main_memory, operands))
    read = sum(min(_fusion_read(module, callee, n), _main_memory(arrays)) for n, arrays in enumerate(operands))
    return int(read) + _fusion_written(module, callee, instruction)


def _main_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.padded_bytes for array in arrays if not array.space)


def _fusion_read(module: Module, callee: str, operand: int) -> float:
    """Returns the bytes that a fusion reads of its operand number `operand`; infinity where it reads all of it."""
    inside = module.computations[callee]
    names = {i.name for i in inside.values() if i.opcode == "parameter" and int(i.inside) == operand}
    total = 0.0
    for instruction in inside.values():  # operands come before their users
        uses = [n for n, name in enumerate(instruction.operands) if name in names]
        if not uses:
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction.opcode == "fusion":
            total += sum(_fusion_read(module, dict(instruction.called)["calls"], n) for n in uses)
        elif instruction.opcode in _SLICES and uses == [0]:
            total += instruction.arrays[0].padded_bytes
        elif instruction.opcode != "dynamic-update-slice" or uses != [0]:
            return float("inf")
    return total


def _fusion_written(module: Module, callee: str, instruction: Instruction) -> int:
    """Returns the bytes that a fusion writes; where it updates a part of an operand in place, those of that part."""
    inside = module.computations[callee]
    root = list(inside.values())[-1]
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(roots) != len(instruction.arrays):
        return _main_memory(instruction.arrays)
    total = 0
    for array, leaf in zip(instruction.arrays, roots):
        while leaf.opcode == "bitcast" and leaf.operands[0] in inside:
            leaf = inside[leaf.operands[0]]
        update = leaf.opcode == "dynamic-update-slice" and inside[leaf.operands[1]].arrays[0].padded_bytes
        if not array.space:
            total += min(update, array.padded_bytes) if update else array.padded_bytes
    return total


# Collectives.


def collectives(module: Module, devices: int) -> list[Collective]:
    """Returns every collective between two devices or more, with its bytes on one device.

    A TPU splits one collective over several fusions that compute at the same time: they have one channel, and count once. Its
    reduce-scatter is an all-reduce in a fusion that keeps a slice: it counts as what it sends.
    """
    largest: dict[tuple[str, ...], Collective] = {}
    for computation, instruction, times in module.running():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        arrays = instruction.arrays
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # with the arrays of the all-reduce, which are those of its operands
        elif kind == "reduce-scatter" or (instruction.opcode.endswith("-start") and kind != "all-reduce"):
            arrays = [a for name in instruction.operands for a in module.arrays(computation, name)]
            if kind == "all-gather":
                arrays = instruction.arrays[len(arrays) :]  # (operands, results)
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        key = (kind, channel[1]) if channel else (kind, computation, instruction.name)
        size, group = sum(a.bytes for a in arrays), _group_size(instruction.rest, devices)
        collective = Collective(kind, size, group, times, instruction.source)
        if key not in largest or times * size > largest[key].times * largest[key].bytes:
            largest[key] = collective
    return [collective for collective in largest.values() if collective.group > 1]


def _group_size(text: str, devices: int) -> int:
    """Parses `replica_groups`: the number of devices that communicate with one another."""
    mesh = re.search(r"replica_groups=\w*\[([^\]]*=[^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'?([A-Za-z]\w*)'?", mesh[2]) if name in sizes) or devices
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return len(listed[1].split(",")) if listed else devices
