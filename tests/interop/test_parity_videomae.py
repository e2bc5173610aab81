"""transformers' VideoMAEForPreTraining against our autoencoder with the same weights: states, predictions, loss, gradients."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.requirements import missing

if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
    missing("parity", "torch and transformers come with the extra: pip install '.[parity]'")

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from cvmae.interop import read
from cvmae.interop.convert import to_theirs
from cvmae.interop.videomae import HF_VIDEOMAE
from cvmae.models import masking
from tests.interop import hf

TINY = dict(
    image_size=32,
    patch_size=8,
    num_frames=4,
    tubelet_size=2,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    decoder_hidden_size=24,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=3,
    decoder_intermediate_size=72,
)
LARGER = dict(image_size=48, patch_size=16, num_frames=6, tubelet_size=3, hidden_size=32, num_attention_heads=2)
CASES = {
    "final norm": (dict(use_mean_pooling=False), 0.75, "tube"),
    "mean pooling": (dict(use_mean_pooling=True, decoder_num_hidden_layers=1), 0.5, "random"),
    "no qv bias, raw pixels": (dict(use_mean_pooling=False, qv_bias=False, norm_pix_loss=False), 0.9, "tube"),
    "other sizes": (dict(LARGER, layer_norm_eps=1e-5), 0.75, "random"),
    "one frame a tubelet, eps 1e-6": (
        dict(tubelet_size=1, layer_norm_eps=1e-6, num_hidden_layers=3, decoder_num_hidden_layers=1),
        0.9,
        "random",
    ),
}


def check(config, batch: int, ratio: float, mask_kind: str, folder, name: str):
    """Builds, saves, loads and runs one configuration both ways; written back, the arrays are the same bytes."""
    torch.manual_seed(0)
    model = hf.shake(VideoMAEForPreTraining(config), seed=1)
    model.save_pretrained(folder)
    found = read(folder)
    module, params = found.take("autoencoder")
    assert module == hf.videomae_module(config) and found.target_norm == ("patch_channel" if config.norm_pix_loss else "")
    written, stored = to_theirs(params, HF_VIDEOMAE, module.encoder.grid), hf.stored(folder)
    assert written.keys() == stored.keys() and all(written[key].tobytes() == stored[key].tobytes() for key in stored)

    grid = module.encoder.grid
    drawn = masking.draw(jax.random.split(jax.random.key(2), batch), grid, mask_kind, ratio)
    mask = masking.from_hidden(drawn.hidden, drawn.num_visible)
    shape = (batch, grid.num_frames, grid.height, grid.width, 3)
    pixels = np.random.default_rng(3).uniform(size=shape).astype(np.float32)
    clip = (pixels - hf.MEAN) / hf.STD
    norm = "patch_channel" if config.norm_pix_loss else "none"
    ours = hf.run_ours(module, params, jnp.asarray(clip), jnp.asarray(pixels), mask, norm)
    theirs = hf.videomae_run(model, clip, mask.hidden, found.template())
    hf.compare(ours, theirs, name)
    return mask


@pytest.mark.parametrize("name", CASES)
def test_tiny(name, tmp_path):
    changes, ratio, mask_kind = CASES[name]
    check(VideoMAEConfig(**{**TINY, **changes}), 2, ratio, mask_kind, tmp_path, name)


def test_vit_b(tmp_path):
    """The published size: 16 frames of 224 pixels, 160 of 1568 tokens visible, decoder 384 x 4."""
    config = VideoMAEConfig(use_mean_pooling=False)
    mask = check(config, 1, 0.9, "tube", tmp_path, "ViT-B")
    assert mask.num_visible == 160 and mask.masked.shape == (1, 1408)
