"""Floating-point operations of a traced program, counted from the shapes of its matrix products: the numerator of MFU.

A loop body counts once per iteration, which XLA's own cost analysis does not do. Elementwise work is not counted, as is usual
for MFU. The count does not depend on the backend.
"""

import collections
import math

from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from cvmae.models.lanes_attention import LANES  # of the matrix units too; v6e's are 256 wide, narrow products are slower there


class FlopCount:
    """The operations of a jaxpr.

    Args:
      jaxpr: the program.
      lanes: contractions and columns of matrix products are rounded up to a multiple of it.

    Attributes:
      total: operations, two for a multiplication with its addition.
      kernels: those of them inside Pallas kernels, which the text of a compiled program does not show.
      kernel_lanes: the same as a TPU's matrix units do them, with contractions and columns rounded up to LANES.
      notes: {what could not be counted exactly: number of occurrences}.
    """

    def __init__(self, jaxpr, lanes: int = 1):
        self.notes: collections.Counter[str] = collections.Counter()
        self.kernels, self.kernel_lanes = 0, 0
        self._lanes = lanes
        self.total = self._jaxpr(jaxpr, 1)

    def _jaxpr(self, jaxpr, times: int) -> int:
        """Returns the operations of a program that runs `times` times, without kernels that the compiler drops as unused."""
        jaxpr, total = getattr(jaxpr, "jaxpr", jaxpr), 0
        used = {atom for atom in jaxpr.outvars if isinstance(atom, Var)}
        for equation in reversed(jaxpr.eqns):
            # JAX itself keeps a Pallas kernel whose results nothing reads, as under the policy `kernels`; XLA does not.
            if equation.primitive.name in ("pallas_call", "shard_map") and used.isdisjoint(equation.outvars):
                continue
            used.update(atom for atom in equation.invars if isinstance(atom, Var))
            total += self._equation(equation, times)
        return total

    def _equation(self, equation, times: int) -> int:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            return times * dot_flops(equation, self._lanes)
        if name == "conv_general_dilated":
            return times * convolution_flops(equation)
        if name == "scan":
            return self._jaxpr(params["jaxpr"], times * params["length"])
        if name == "cond":
            return max(self._jaxpr(branch, times) for branch in params["branches"])
        if name == "while":
            inside = self._jaxpr(params["body_jaxpr"], times)
            self.notes["loops of unknown length with matrix products, counted once"] += inside > 0
            return inside
        if name == "shard_map":
            devices = math.prod(params["mesh"].shape.values())  # the shapes inside are those of one device
            return self._jaxpr(params["jaxpr"], times * devices)
        if name == "pallas_call":
            self.notes["Pallas kernels, counted as their body times their grid"] += 1
            runs = times * math.prod(params["grid_mapping"].grid)
            inside = self._jaxpr(params["jaxpr"], runs)
            self.kernels += inside
            self.kernel_lanes += runs * FlopCount(params["jaxpr"], LANES).total
            return inside
        if name.startswith("dot_product_attention_"):  # cuDNN's
            return times * attention_flops(equation)
        if "custom_call" in name or name == "ffi_call" or "flash" in name or "cudnn" in name:
            self.notes[f"calls of {name}, not counted"] += 1
        return sum(self._jaxpr(inner, times) for inner in _inner_programs(params))


def _inner_programs(params):
    """Yields the programs among an equation's parameters: those of jit, remat, custom derivatives and the like."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield item


def dot_flops(equation, lanes: int = 1) -> int:
    """Returns the operations of one dot_general, with its contraction and its columns rounded up to a multiple of `lanes`."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    shape: tuple[int, ...] = (1, *equation.outvars[0].aval.shape)
    contraction = math.prod(left[d] for d in contracted)
    return 2 * math.prod(shape[:-1]) * _round_up(shape[-1], lanes) * _round_up(contraction, lanes)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def attention_flops(equation) -> int:
    """Returns the operations of cuDNN's attention of [B, N, heads, width]: two products, and in its gradient five."""
    query, key = (variable.aval.shape for variable in equation.invars[:2])
    return (10 if "bwd" in equation.primitive.name else 4) * math.prod(query) * key[1]


def convolution_flops(equation) -> int:
    """Returns the operations of one convolution, as if its padding held values."""
    numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
    _, *rest = numbers.rhs_spec  # without the output features
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[d] for d in rest)
