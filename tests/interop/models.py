"""Small models and files of them, for tests of readers of weights."""

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from cvmae.interop.convert import export_arrays
from cvmae.interop.pretrained import shapes
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize


def videomae(depth: int = 2, final_norm: bool = True) -> Autoencoder:
    grid = Grid(4, 16, 16, 2, 8)
    encoder = Encoder(TransformerConfig(ViTSize(16, depth, 2), "qv", 1e-12), grid, "sincos1d", final_norm=final_norm)
    spec = DecoderSpec(TransformerConfig(ViTSize(8, 1, 2), "qv", 1e-12), "concat", "sincos1d", embed_bias=False, norm_eps=1e-5)
    return Autoencoder(encoder, Decoder(spec, grid))


def image_mae(**changes) -> Autoencoder:
    grid = Grid(1, 24, 24, 1, 8)
    encoder = Encoder(
        TransformerConfig(ViTSize(16, 2, 2), eps=1e-12), grid, **{"positions": "sincos2d", "cls_token": True, **changes}
    )
    spec = DecoderSpec(TransformerConfig(ViTSize(8, 1, 2), eps=1e-12), "unshuffle", "sincos2d", "encoder", norm_eps=1e-12)
    return Autoencoder(encoder, Decoder(spec, grid))


def random_params(module, seed: int = 0) -> dict:
    """Random parameters of a module, as numpy."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(leaf.dtype), shapes(module))


def save_weights(file, params, key_map, grid: Grid) -> None:
    """Writes parameters as a safetensors file of a kind."""
    save_file(export_arrays(params, key_map, grid), file)


def rewrite(file, change) -> None:
    """Applies `change` to the arrays of a safetensors file in place."""
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)
