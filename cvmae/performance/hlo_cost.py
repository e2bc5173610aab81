"""What a compiled program does: floating-point operations, bytes of main memory, collectives; loop bodies times their passes."""

import collections
import dataclasses
import functools
import math
import re

import numpy as np

from cvmae.performance.hlo import Array, Instruction, Module

# Custom calls of XLA's own that compute nothing: buffers, annotations, marks around collectives.
_BOOKKEEPING = {
    *("AllocateBuffer", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "AssumeGatherIndicesInBound", "TopK"),
    *("GatherScatterIndicesBitpacked", "AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast", "ZeroCrop"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Op:
    """One instruction of a computation that is not the inside of another one.

    Attributes:
      opcode: what it does; a fusion has the operations inside it in its `flops`.
      source: the traced operation that it is from.
      flops: of matrix products and convolutions alone.
      bytes: read and written in main memory, not what stays on the chip.
      cycles: XLA's own guess on TPU, 0 where it gives none.
      times: how often it runs in a step.
    """

    opcode: str
    source: str
    flops: int
    bytes: int
    cycles: int
    times: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
      kind: one of COLLECTIVES.
      bytes: of its result on one device (of its operand, for reduce-scatter).
      group: how many devices take part.
      times: how often it runs in a step.
      source: the traced operation that it is from.
    """

    kind: str
    bytes: int
    group: int
    times: int
    source: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends at least, on a ring: see "Bandwidth optimal all-reduce" (Patarasuk and Yuan)."""
        share = (self.group - 1) / self.group
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def _dims(text: str, name: str) -> list[int]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", text)
    return [int(d) for d in found[1].split(",") if d] if found else []


def _dot(instruction: Instruction, left) -> int:
    contracted = [left.dims[d] for d in _dims(instruction.rest, "lhs_contracting_dims")]
    return 2 * math.prod(instruction.arrays[0].dims) * math.prod(contracted)


@functools.lru_cache(maxsize=4096)
def _window_pairs(size_in, size_out, size, stride, low, dilate, kernel_dilate) -> int:
    """(output place, kernel place) pairs of one dimension that meet a value rather than padding or a hole of a dilated input."""
    place = np.arange(size_out)[:, None] * stride + np.arange(size)[None, :] * kernel_dilate - low
    return int(((place >= 0) & (place <= (size_in - 1) * dilate) & (place % dilate == 0)).sum())


def _window(text: str, count: int) -> list[dict[str, int]]:
    """Size, stride, low padding and dilations of each spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}
    defaults = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    columns = {name: fields[name].split("x") if name in fields else [value] * count for name, value in defaults.items()}
    return [{name: int(column[d].split("_")[0]) for name, column in columns.items()} for d in range(count)]


def _convolution(instruction: Instruction, left, right) -> int:
    """Matrix products become convolutions on TPU, their batches spatial dimensions with a window over all of it."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    out = instruction.arrays[0]
    spatial = sorted(c for c in labels[3] if c.isdigit())
    pairs = 1
    for d, w in zip(spatial, _window(instruction.rest, len(spatial))):
        size_in, size_out = left.dims[labels[1].index(d)], out.dims[labels[3].index(d)]
        pairs *= _window_pairs(size_in, size_out, w["size"], w["stride"], w["pad"], w["lhs_dilate"], w["rhs_dilate"])
    batch, features = out.dims[labels[3].index("b")], out.dims[labels[3].index("f")]
    return 2 * pairs * batch * features * right.dims[labels[2].index("i")]


def flops_of(module: Module, computation: str, instruction: Instruction) -> int:
    """Operations of a matrix product or convolution, two for a multiplication with its addition; 0 for anything else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (module.arrays(computation, name)[0] for name in instruction.operands[:2])
    return _dot(instruction, left) if instruction.opcode == "dot" else _convolution(instruction, left, right)


def _inner_flops(module: Module, computation: str, instruction: Instruction, memo: dict) -> int:
    """With those of the computations fused into the instruction."""
    total = flops_of(module, computation, instruction)
    for role, callee in instruction.called:
        if role == "calls" and callee in module.fused:
            if callee not in memo:
                inner = module.computations[callee].values()
                memo[callee] = sum(_inner_flops(module, callee, i, memo) for i in inner)
            total += memo[callee]
    return total


def ops(module: Module) -> list[Op]:
    """Every operation of the program that a device starts by itself."""
    found, memo = [], {}
    for computation, instruction, times in module.running():
        if computation in module.fused:
            continue
        flops, size = _inner_flops(module, computation, instruction, memo), bytes_of(module, computation, instruction)
        cycles = re.search(r'estimated_cycles":"(\d+)"', instruction.rest)
        if flops or size or cycles:
            found.append(Op(instruction.opcode, instruction.source, flops, size, int(cycles[1]) if cycles else 0, times))
    return found


def uncounted(module: Module) -> dict[str, int]:
    """{target: how often it runs} of calls to code that is not in the program, whose operations nobody here can count."""
    found = collections.Counter()
    for _, instruction, times in module.running():
        if instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
            found[target[1] if target else "unnamed"] += times
    return {name: times for name, times in found.items() if name not in _BOOKKEEPING}


def _group(text: str, devices: int) -> int:
    """How many devices of `replica_groups` exchange with one another."""
    mesh = re.search(r"replica_groups=\w*\[([^\]]*=[^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'?([A-Za-z]\w*)'?", mesh[2]) if name in sizes) or devices
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return len(listed[1].split(",")) if listed else devices


def collectives(module: Module, devices: int) -> list[Collective]:
    """Every collective of the program, with the bytes of a device.

    A TPU spreads one collective over several fusions that compute meanwhile: all have the channel of that one, and count once.
    """
    found = {}
    for computation, instruction, times in module.running():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        arrays = instruction.arrays
        if kind == "reduce-scatter" or (instruction.opcode.endswith("-start") and kind != "all-reduce"):
            arrays = [a for name in instruction.operands for a in module.arrays(computation, name)]
            if kind == "all-gather":
                arrays = instruction.arrays[len(arrays) :]  # (operands, results)
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        key = (kind, channel[1]) if channel else (kind, computation, instruction.name)
        one = Collective(kind, sum(a.bytes for a in arrays), _group(instruction.rest, devices), times, instruction.source)
        if key not in found or one.times * one.bytes > found[key].times * found[key].bytes:
            found[key] = one
    return [one for one in found.values() if one.group > 1]


# They move nothing: names for parts of what is there, or for work that the computations they call are counted with.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all", "domain"),
    *("partition-id", "replica-id", "opt-barrier", "async-start", "copy-done"),
}
_SLICES = ("dynamic-slice", "gather", "slice")


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if not array.space)


def bytes_of(module: Module, computation: str, instruction: Instruction) -> int:
    """What one run of an instruction moves between main memory and the chip; of an array that it slices or updates, that part."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")) or '"AllocateBuffer"' in instruction.rest:
        return 0
    operands = [module.arrays(computation, name) for name in instruction.operands]
    if opcode in _SLICES:
        return 2 * _in_memory(instruction.arrays)
    if opcode == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    if opcode == "copy-start":
        return _in_memory(instruction.arrays[:2])
    callee = dict(instruction.called).get("calls")
    if opcode != "fusion" or callee not in module.computations:
        return _in_memory(instruction.arrays) + sum(map(_in_memory, operands))
    read = sum(min(_read(module, callee, place), _in_memory(arrays)) for place, arrays in enumerate(operands))
    return read + _written(module, callee, instruction)


def _read(module: Module, callee: str, place: int) -> float:
    """Bytes that a fusion reads of its operand at a place; infinite where it reads all of it."""
    inside = module.computations[callee]
    names = {i.name for i in inside.values() if i.opcode == "parameter" and int(i.inside) == place}
    total = 0.0
    for instruction in inside.values():  # operands come before their users
        places = [p for p, name in enumerate(instruction.operands) if name in names]
        if not places:
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction.opcode == "fusion":
            total += sum(_read(module, dict(instruction.called)["calls"], p) for p in places)
        elif instruction.opcode in _SLICES and places == [0]:
            total += instruction.arrays[0].bytes
        elif instruction.opcode != "dynamic-update-slice" or places != [0]:
            return float("inf")
    return total


def _written(module: Module, callee: str, instruction: Instruction) -> int:
    """Bytes that a fusion writes; where it updates part of an operand in place, that part."""
    inside = module.computations[callee]
    root = list(inside.values())[-1]
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(roots) != len(instruction.arrays):
        return _in_memory(instruction.arrays)
    total = 0
    for array, leaf in zip(instruction.arrays, roots):
        while leaf.opcode == "bitcast" and leaf.operands[0] in inside:
            leaf = inside[leaf.operands[0]]
        update = leaf.opcode == "dynamic-update-slice" and inside[leaf.operands[1]].arrays[0].bytes
        if not array.space:
            total += min(update, array.bytes) if update else array.bytes
    return total
