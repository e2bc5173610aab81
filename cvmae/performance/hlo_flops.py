"""Floating-point operations of the instructions of a compiled program: matrix products, convolutions, and calls of NVIDIA's libraries."""

import functools
import math
import re

import numpy as np

from cvmae.performance.chips import Chip
from cvmae.performance.hlo import Array, Instruction, Module

# Custom calls of XLA's own that compute nothing: buffers, annotations, marks around collectives.
_NO_COMPUTE = {
    *("AllocateBuffer", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "AssumeGatherIndicesInBound", "TopK"),
    *("GatherScatterIndicesBitpacked", "AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast", "ZeroCrop"),
}
_COUNTED = ("__cublas$", "__cudnn$fmha")  # calls of libraries whose operations follow from their shapes


def target_of(instruction: Instruction) -> str:
    """Returns the name of the code outside the program that an instruction calls; '' for any other, and for calls that compute nothing."""
    if instruction.opcode != "custom-call":
        return ""
    target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    name = target[1] if target else "unnamed"
    return "" if name in _NO_COMPUTE else name


def flops_of(module: Module, computation: str, instruction: Instruction) -> int:
    """Returns the operations of a matrix product, a convolution or cuDNN's attention; 0 for anything else."""
    target = target_of(instruction)
    if instruction.opcode not in ("dot", "convolution") and not target.startswith(_COUNTED):
        return 0
    left, right = (module.arrays(computation, name)[0] for name in instruction.operands[:2])
    if target.startswith("__cudnn$fmha"):  # [B, N, heads, width] each: two products, and with those of the gradient five
        return (10 if target.endswith("Backward") else 4) * math.prod(left.dims) * right.dims[1]
    return _convolution_flops(instruction, left, right) if instruction.opcode == "convolution" else _dot_flops(instruction, left)


def slowdown(module: Module, computation: str, instruction: Instruction, chip: Chip) -> float:
    """Returns the time of a product over that of the same in bfloat16.

    On GPUs float32 takes tensor cores at half of bfloat16's rate (TensorFloat-32), and at `Precision.HIGHEST` none. On TPUs,
    whose cycles XLA counts, it is 1.
    """
    operands = [array.dtype for name in instruction.operands[:2] for array in module.arrays(computation, name)[:1]]
    if not chip.float32 or "f32" not in operands:
        return 1.0
    return chip.flops / chip.float32 if is_highest(instruction) else 2.0


def is_highest(instruction: Instruction) -> bool:
    """Returns True for a product at `Precision.HIGHEST`, in float32 throughout."""
    precision = re.search(r'operand_precision(?:=\{|":\[)([^}\]]*)', instruction.rest)
    return precision is not None and "highest" in precision[1].lower()


def flops_with_fused(
    module: Module, computation: str, instruction: Instruction, memo: dict, chip: Chip | None
) -> tuple[int, int]:
    """Returns (flops, slow_flops) of an instruction with those of the computations fused into it, see `hlo_cost.Op`.

    Args:
      module: the program.
      computation: that the instruction is in.
      instruction: of the program.
      memo: of the pairs of fused computations, shared between calls.
      chip: see `hlo_cost.ops`.
    """
    flops = flops_of(module, computation, instruction)
    slow = round(flops * slowdown(module, computation, instruction, chip)) - flops if flops and chip else 0
    for role, callee in instruction.called:
        if role == "calls" and callee in module.fused:
            if callee not in memo:
                inner = [flops_with_fused(module, callee, i, memo, chip) for i in module.computations[callee].values()]
                memo[callee] = sum(pair[0] for pair in inner), sum(pair[1] for pair in inner)
            flops, slow = flops + memo[callee][0], slow + memo[callee][1]
    return flops, slow


def _dot_flops(instruction: Instruction, left: Array) -> int:
    listed = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)', instruction.rest)  # of a product, of a call of cuBLAS
    contracted = [left.dims[int(d)] for d in listed[1].replace('"', "").split(",") if d] if listed else []
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
