"""The kernels of a step compiled for a GPU: which attention, which products outside bfloat16, and kernels by kind."""

import collections
import dataclasses

import flax.linen as nn

from cvmae.data.lines import counted
from cvmae.models.attention import choose, why_not_cudnn
from cvmae.models.vit import Attention
from cvmae.parallel.logical_axes import target_device
from cvmae.performance.chips import Chip
from cvmae.performance.hlo import Module, SourceLines
from cvmae.performance.hlo_cost import COLLECTIVES, Op
from cvmae.performance.hlo_flops import flops_of, is_highest, slowdown


@dataclasses.dataclass(frozen=True)
class AttentionUse:
    """Attention of one shape in a step.

    Attributes:
      kernel: that computes it, one of `models.attention.ATTENTIONS`.
      tokens: of a clip.
      heads: their number; width: of one.
      reason: why it is not cuDNN's flash attention; '' where it is.
    """

    kernel: str
    tokens: int
    heads: int
    width: int
    reason: str


@dataclasses.dataclass(frozen=True)
class SlowProducts:
    """Matrix products and convolutions of one source line that do not run in bfloat16.

    Attributes:
      line: `cvmae/augment/geometry.py:80`, or the traced operation where no line is recorded.
      precision: `float32` for Precision.HIGHEST, which takes no tensor cores; `TensorFloat-32` for the default.
      runs: per step.
      flops: per step, on one device.
      seconds: per step beyond those of bfloat16, at the peaks of the chip.
    """

    line: str
    precision: str
    runs: int
    flops: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class GPUWork:
    """The kernels of a step on one GPU.

    Attributes:
      attention: the step's attention, distinct shapes only.
      slow: products outside bfloat16, those that cost most first.
      kernels: {kind: (number per step, bytes of main memory)}.
    """

    attention: tuple[AttentionUse, ...]
    slow: tuple[SlowProducts, ...]
    kernels: dict[str, tuple[int, int]]


def record_attention(uses: set[AttentionUse]):
    """Returns a context in which every traced `models.vit.Attention` is added to `uses`."""

    def intercept(method, args, kwargs, context):
        if isinstance(context.module, Attention) and context.method_name == "__call__":
            uses.add(_use_of(context.module.trunk, args[0]))
        return method(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _use_of(trunk, x) -> AttentionUse:
    tokens, heads, width = x.shape[1], trunk.size.heads, trunk.size.width // trunk.size.heads
    device = target_device(trunk.rules)
    kernel = choose(trunk.attention, device, trunk.dtype, tokens, heads, width, trunk.rules, trunk.softcap)
    reason = ""
    if trunk.softcap:
        reason = f"softcap={trunk.softcap:g}, which no other kernel has"
    elif kernel != "cudnn":
        reason = f"config.attention={trunk.attention}" if trunk.attention != "auto" else why_not_cudnn(device, trunk.dtype, width)
    return AttentionUse(kernel, tokens, heads, width, reason)


def slow_products(module: Module, lines: SourceLines, chip: Chip) -> list[SlowProducts]:
    """Returns the products in float32 by source line and precision, those that cost most first."""
    groups: dict[tuple[str, str], list[tuple[int, int, float]]] = collections.defaultdict(list)
    for computation, instruction, times in module.running():
        flops = flops_of(module, computation, instruction)
        factor = slowdown(module, computation, instruction, chip) if flops else 1.0
        if factor > 1:
            precision = "float32" if is_highest(instruction) else "TensorFloat-32"
            line = lines.of(instruction) or instruction.source or instruction.name
            groups[line, precision].append((times, times * flops, times * flops * (factor - 1) / chip.flops))
    rows = [SlowProducts(*key, *map(sum, zip(*runs))) for key, runs in groups.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def kernels_by_kind(ops: list[Op]) -> dict[str, tuple[int, int]]:
    """Returns {kind: (number per step, bytes)} of the kernels that a GPU starts, those that move most first."""
    kinds: dict[str, tuple[int, int]] = {}
    for op in ops:
        kind = _kind(op)
        count, size = kinds.get(kind, (0, 0))
        kinds[kind] = count + op.times, size + op.times * op.bytes
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def _kind(op: Op) -> str:
    if op.opcode.removesuffix("-start") in COLLECTIVES:
        return "collectives"
    if op.opcode == "custom-call":
        return "cuDNN and cuBLAS" if op.flops else "other calls"
    return "matrix products" if op.flops else "copies" if op.opcode.startswith("copy") else "other fusions"


def gpu_lines(work: GPUWork, count: int = 5) -> list[str]:
    """Returns the lines of the kernels of one GPU.

    Args:
      work: of the step.
      count: source lines of slow products that are shown.
    """
    lines = []
    for use in sorted(work.attention, key=lambda use: -use.tokens):
        why = f", not cuDNN's flash attention: {use.reason}" if use.reason else ", flash attention"
        lines.append(
            f"    {'attention':<36}{use.kernel} for {use.tokens} tokens, {counted(use.heads, 'head')} of {use.width}{why}"
        )
    for kind, (number, size) in work.kernels.items():
        lines.append(f"    {'kernels: ' + kind:<36}{number}, {size / 1e9:.4g} GB read and written")
    if not work.slow:
        lines.append("    every matrix product and convolution takes bfloat16")
    for row in work.slow[:count]:
        lines.append(
            f"    {'not bfloat16':<36}{row.precision} at {row.line}: {counted(row.runs, 'product')}, {row.flops / 1e9:.4g} GFLOP, "
            f"{row.seconds * 1e3:.2f} ms more than in bfloat16"
        )
    if len(work.slow) > count:
        rest = sum(row.seconds for row in work.slow[count:])
        lines.append(f"    {'not bfloat16':<36}{counted(len(work.slow) - count, 'more line')}, {rest * 1e3:.2f} ms")
    return lines
