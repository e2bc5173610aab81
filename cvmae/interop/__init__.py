"""Weights in and out: key maps as tables, one reader, exports for transformers, JAX without this package, and ourselves."""

from cvmae.interop.kinds import KINDS
from cvmae.interop.pretrained import Pretrained, WeightsError
from cvmae.interop.read import read

__all__ = ["KINDS", "Pretrained", "WeightsError", "read"]
