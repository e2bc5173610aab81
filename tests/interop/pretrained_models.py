"""Weights of tiny models with random parameters, for tests of exports."""

import dataclasses
from typing import Any

import jax
import numpy as np

from cvmae.interop.pretrained import Head, Pretrained
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize

NORMALIZATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def pretrained(
    encoder: Encoder, decoder: DecoderSpec | None = None, head: Head | None = None, seed: int = 0, **fields
) -> Pretrained:
    """A `Pretrained` of these modules; no bias is 0 and no scale 1, which would hide a swap."""
    draw = np.random.default_rng(seed)
    blank = Pretrained("random weights", encoder, {}, decoder, head, **{"normalization": NORMALIZATION} | fields)
    params = jax.tree.map(lambda a: draw.normal(size=a.shape, scale=0.3).astype(np.float32), blank.template())
    return dataclasses.replace(blank, params=params)


def videomae(size=ViTSize(48, 2, 4, 2.0), grid=Grid(4, 32, 32, 2, 8), bias="qv", eps=1e-6, **changes) -> Encoder:  # noqa: B008
    """An encoder that transformers' VideoMAE can express."""
    return Encoder(TransformerConfig(size, bias, eps), grid, **{"positions": "sincos1d"} | changes)


def videomae_decoder(size=ViTSize(24, 1, 3, 3.0), bias="qv", eps=1e-6, **changes) -> DecoderSpec:  # noqa: B008
    """A decoder that transformers' VideoMAE can express."""
    fields: dict[str, Any] = {"layout": "concat", "positions": "sincos1d", "embed_bias": False, "norm_eps": 1e-5}
    return DecoderSpec(TransformerConfig(size, bias, eps), **fields | changes)
