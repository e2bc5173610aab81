"""The cost of a compiled program on one device: floating-point operations, bytes of main memory, bytes of collectives.

Operations are those of matrix products and convolutions, two for a multiplication with its addition. A loop body counts once per
iteration, see `hlo.Module.times`.
"""

import collections
import dataclasses
import functools
import math
import re

import numpy as np

from cvmae.performance.hlo import Array, Instruction, Module

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# Custom calls of XLA's own that compute nothing: buffers, annotations, marks around collectives.
_NO_COMPUTE = {
    *("AllocateBuffer", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "AssumeGatherIndicesInBound", "TopK"),
    *("GatherScatterIndicesBitpacked", "AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast", "ZeroCrop"),
}
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
      cycles: XLA's own estimate on TPU, 0 elsewhere.
      times: runs per step.
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


def ops(module: Module) -> list[Op]:
    """Returns every operation of the program that a device starts by itself."""
    operations = []
    memo: dict[str, int] = {}
    for computation, instruction, times in module.running():
        if computation in module.fused:
            continue
        flops, size = _flops_with_fused(module, computation, instruction, memo), bytes_of(module, computation, instruction)
        cycles = re.search(r'estimated_cycles":"(\d+)"', instruction.rest)
        if flops or size or cycles:
            operations.append(Op(instruction.opcode, instruction.source, flops, size, int(cycles[1]) if cycles else 0, times))
    return operations


def uncounted(module: Module) -> dict[str, int]:
    """Returns {target: runs} of calls to code outside the program, such as Pallas kernels, whose operations are not counted."""
    calls: collections.Counter[str] = collections.Counter()
    for _, instruction, times in module.running():
        if instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
            calls[target[1] if target else "unnamed"] += times
    return {name: times for name, times in calls.items() if name not in _NO_COMPUTE}


# Floating-point operations.


def flops_of(module: Module, computation: str, instruction: Instruction) -> int:
    """Returns the operations of a matrix product or convolution; 0 for anything else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (module.arrays(computation, name)[0] for name in instruction.operands[:2])
    return _dot_flops(instruction, left) if instruction.opcode == "dot" else _convolution_flops(instruction, left, right)


def _flops_with_fused(module: Module, computation: str, instruction: Instruction, memo: dict) -> int:
    total = flops_of(module, computation, instruction)
    for role, callee in instruction.called:
        if role == "calls" and callee in module.fused:
            if callee not in memo:
                inner = module.computations[callee].values()
                memo[callee] = sum(_flops_with_fused(module, callee, i, memo) for i in inner)
            total += memo[callee]
    return total


def _dot_flops(instruction: Instruction, left: Array) -> int:
    listed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    contracted = [left.dims[int(d)] for d in listed[1].split(",") if d] if listed else []
    return 2 * math.prod(instruction.arrays[0].dims) * math.prod(contracted)


def _convolution_flops(instruction: Instruction, left: Array, right: Array) -> int:
    """Returns the operations of a convolution.

    On TPU, batched matrix products are convolutions too: their batches are spatial dimensions, with a window as large as the input.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert labels is not None  # every convolution has them
    out = instruction.arrays[0]
    spatial = sorted(c for c in labels[3] if c.isdigit())
    pairs = 1
    for d, w in zip(spatial, _windows(instruction.rest, len(spatial))):
        size_in, size_out = left.dims[labels[1].index(d)], out.dims[labels[3].index(d)]
        pairs *= _window_pairs(size_in, size_out, w["size"], w["stride"], w["pad"], w["lhs_dilate"], w["rhs_dilate"])
    batch, features = out.dims[labels[3].index("b")], out.dims[labels[3].index("f")]
    return 2 * pairs * batch * features * right.dims[labels[2].index("i")]


def _windows(text: str, count: int) -> list[dict[str, int]]:
    """Parses size, stride, low padding and dilations of each spatial dimension."""
    match = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}
    defaults = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    columns = {name: fields[name].split("x") if name in fields else [value] * count for name, value in defaults.items()}
    return [{name: int(column[d].split("_")[0]) for name, column in columns.items()} for d in range(count)]


@functools.lru_cache(maxsize=4096)
def _window_pairs(size_in, size_out, size, stride, low, dilate, kernel_dilate) -> int:
    """Returns the (output, kernel) index pairs of one dimension that meet an input value, not padding or a hole of dilation."""
    index = np.arange(size_out)[:, None] * stride + np.arange(size)[None, :] * kernel_dilate - low
    return int(((index >= 0) & (index <= (size_in - 1) * dilate) & (index % dilate == 0)).sum())


# Bytes of main memory.


def bytes_of(module: Module, computation: str, instruction: Instruction) -> int:
    """Returns the bytes that one run of an instruction moves to and from main memory; of a sliced or updated array, that part."""
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith(("-done", "-update")) or '"AllocateBuffer"' in instruction.rest:
        return 0
    operands = [module.arrays(computation, name) for name in instruction.operands]
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
    return sum(array.bytes for array in arrays if not array.space)


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
            total += instruction.arrays[0].bytes
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
        update = leaf.opcode == "dynamic-update-slice" and inside[leaf.operands[1]].arrays[0].bytes
        if not array.space:
            total += min(update, array.bytes) if update else array.bytes
    return total


# Collectives.


def collectives(module: Module, devices: int) -> list[Collective]:
    """Returns every collective between two devices or more, with its bytes on one device.

    A TPU splits one collective over several fusions that compute at the same time: they have one channel, and count once.
    """
    largest: dict[tuple[str, ...], Collective] = {}
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
