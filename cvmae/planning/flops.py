"""Operations of a traced program, counted from the shapes of its matrix products: what MFU divides by, on any backend.

Loops count as often as they run, which XLA's own cost analysis does not do. Elementwise work is not counted, as is usual for MFU.
"""

import collections
import math

from jax.extend.core import ClosedJaxpr, Jaxpr


class Count:
    """A walk over a jaxpr.

    Attributes:
      flops: 2 for each multiplication with its addition.
      notes: {what could not be counted exactly: how often}.
    """

    def __init__(self, jaxpr):
        self.notes = collections.Counter()
        self.flops = self._jaxpr(jaxpr)

    def _jaxpr(self, jaxpr) -> int:
        return sum(map(self._equation, getattr(jaxpr, "jaxpr", jaxpr).eqns))

    def _equation(self, equation) -> int:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            return dot_flops(equation)
        if name == "conv_general_dilated":
            return convolution_flops(equation)
        if name == "scan":
            return params["length"] * self._jaxpr(params["jaxpr"])
        if name == "cond":
            return max(map(self._jaxpr, params["branches"]))
        if name == "while":
            inside = self._jaxpr(params["body_jaxpr"])
            self.notes["loops of unknown length with matrix products, counted once"] += inside > 0
            return inside
        if name == "shard_map":
            return math.prod(params["mesh"].shape.values()) * self._jaxpr(params["jaxpr"])  # its shapes are those of one device
        if name == "pallas_call":
            self.notes["Pallas kernels, counted as their body times their grid"] += 1
            return math.prod(params["grid_mapping"].grid) * self._jaxpr(params["jaxpr"])
        if "custom_call" in name or name == "ffi_call" or "flash" in name or "cudnn" in name:
            self.notes[f"calls of {name}, not counted"] += 1
        return sum(map(self._jaxpr, _inner(params)))


def _inner(params):
    """The programs among an equation's parameters: of jit, remat, custom derivatives and the like."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield item


def dot_flops(equation) -> int:
    """Of one dot_general: two for each product."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def convolution_flops(equation) -> int:
    """Of one convolution, border effects left out."""
    numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
    out_features, *rest = numbers.rhs_spec
    del out_features
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[d] for d in rest)
