"""Weights in and out: key maps as tables, one reader, exports for transformers, JAX without this package, and ourselves."""

from cvmae.interop.key_maps import KINDS
from cvmae.interop.load import read
from cvmae.interop.pretrained import Pretrained, WeightsError

__all__ = ["KINDS", "Pretrained", "WeightsError", "read"]
