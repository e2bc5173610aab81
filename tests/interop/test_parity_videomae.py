"""transformers' VideoMAEForPreTraining against this package's autoencoder with the same weights: states, predictions, loss, gradients."""

import os

import jax
import numpy as np
import pytest

from cvmae.interop import read
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.models import masking
from tests.interop import hf_models
from tests.interop.parity import CLIPS, TINY, torch, transformers

LARGER = {"image_size": 48, "patch_size": 16, "num_frames": 6, "tubelet_size": 3, "hidden_size": 32, "num_attention_heads": 2}
CASES = {
    "final norm": ({"use_mean_pooling": False}, 0.75, "tube"),
    "mean pooling": ({"use_mean_pooling": True, "decoder_num_hidden_layers": 1}, 0.5, "random"),
    "no qv bias, raw pixels": ({"use_mean_pooling": False, "qv_bias": False, "norm_pix_loss": False}, 0.9, "tube"),
    "other sizes": (dict(LARGER, layer_norm_eps=1e-5), 0.75, "random"),
    "one frame a tubelet, eps 1e-6": (
        {"tubelet_size": 1, "layer_norm_eps": 1e-6, "num_hidden_layers": 3, "decoder_num_hidden_layers": 1},
        0.9,
        "random",
    ),
}


def check(config, batch: int, ratio: float, mask_kind: str, folder, name: str, backward: bool = True):
    """Builds, saves, loads and runs one configuration both ways; written back, the arrays are the same bytes."""
    torch.manual_seed(0)
    model = hf_models.shake(transformers.VideoMAEForPreTraining(config), seed=1)
    model.save_pretrained(folder)
    loaded = read(folder)
    module, params = loaded.take("autoencoder")
    assert module == hf_models.videomae_module(config) and loaded.target_norm == ("patch_channel" if config.norm_pix_loss else "")
    check_written_back(loaded, folder)

    grid = module.encoder.grid

    @jax.jit
    def draw(key):
        drawn = masking.draw(jax.random.split(key, batch), grid, mask_kind, ratio)
        return masking.from_hidden(drawn.hidden, drawn.num_visible)

    mask = draw(jax.random.key(2))
    shape = (batch, grid.num_frames, grid.height, grid.width, 3)
    pixels = np.random.default_rng(3).uniform(size=shape).astype(np.float32)
    clip = (pixels - hf_models.MEAN) / hf_models.STD
    norm = "patch_channel" if config.norm_pix_loss else "none"
    actual = hf_models.run_module(module, params, clip, pixels, mask, norm, backward=backward)
    reference = hf_models.videomae_run(model, clip, mask.hidden, loaded.template(), backward)
    hf_models.compare(actual, reference, name)
    return mask


def check_written_back(loaded, folder):
    """Exported again, the arrays are the same bytes and transformers reads the same config, so that its outputs are the same."""
    write_hf_videomae(loaded, folder / "again", "autoencoder")
    written, stored = hf_models.stored(folder / "again"), hf_models.stored(folder)
    assert written.keys() == stored.keys() and all(written[key].tobytes() == stored[key].tobytes() for key in stored)
    there, here = (transformers.VideoMAEConfig.from_pretrained(path).to_dict() for path in (folder, folder / "again"))
    # Where they are not normalized the targets are pixels in 0..1, which no config of this package trains on.
    for free in ("dtype", "transformers_version", "initializer_range", "norm_pix_loss", "_name_or_path"):
        there.pop(free, None), here.pop(free, None)
    assert here == there


MORE = ("mean pooling", "one frame a tubelet, eps 1e-6")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE else []) for name in CASES])
def test_tiny(name, tmp_path):
    changes, ratio, mask_kind = CASES[name]
    check(transformers.VideoMAEConfig(**TINY | CLIPS | changes), 2, ratio, mask_kind, tmp_path, name)


@pytest.mark.slow
def test_vit_b(tmp_path):
    """The published size, gradients with CVMAE_LARGE=1: 16 frames of 224 pixels, 160 of 1568 tokens visible, decoder 384 x 4."""
    config = transformers.VideoMAEConfig(use_mean_pooling=False)
    mask = check(config, 1, 0.9, "tube", tmp_path, "ViT-B", backward=bool(os.environ.get("CVMAE_LARGE")))
    assert mask.num_visible == 160 and mask.masked.shape == (1, 1408)


@pytest.mark.skipif(not os.environ.get("CVMAE_LARGE"), reason="a minute and 8 GB of memory: CVMAE_LARGE=1 runs it")
def test_vit_l(tmp_path):
    """304 M parameters and the decoder of VideoMAE's authors, 512 x 12."""
    encoder = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    decoder = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
    decoder = {f"decoder_{name}": value for name, value in decoder.items()}
    check(transformers.VideoMAEConfig(use_mean_pooling=False, **encoder, **decoder), 1, 0.9, "tube", tmp_path, "ViT-L")
