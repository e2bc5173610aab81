"""Weights in and out: key maps as tables, one reader, and exports for transformers, for plain JAX and for this package."""

from cvmae.interop.hints import ModelHints
from cvmae.interop.key_maps import KINDS
from cvmae.interop.load import read
from cvmae.interop.pretrained import Pretrained, WeightsError

__all__ = ["KINDS", "ModelHints", "Pretrained", "WeightsError", "read"]
