"""transformers' ViTMAEForPreTraining against this package's autoencoder with the same weights: states, predictions, loss, gradients."""

import os

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cvmae.interop import read
from cvmae.interop.convert import export_arrays
from cvmae.interop.key_maps.mae import HF_VIT_MAE
from cvmae.models import masking
from tests.interop import hf_models
from tests.interop.parity import TINY, torch, transformers

CASES = {
    "raw pixels": {"mask_ratio": 0.75, "num_hidden_layers": 3, "decoder_num_hidden_layers": 1},
    "normalized pixels": {"mask_ratio": 0.6, "norm_pix_loss": True},
    "no qkv bias": {"mask_ratio": 0.9, "qkv_bias": False, "norm_pix_loss": True, "decoder_num_hidden_layers": 1},
    "other sizes": {
        "image_size": 96,
        "patch_size": 16,
        "hidden_size": 64,
        "decoder_hidden_size": 32,
        "decoder_num_attention_heads": 4,
    },
    "eps 1e-6": {"layer_norm_eps": 1e-6, "mask_ratio": 0.5},
}


def build(config):
    """A transformers model of random weights."""
    torch.manual_seed(0)
    return hf_models.with_tables(hf_models.shake(transformers.ViTMAEForPreTraining(config), seed=1))


def check(config, batch: int, folder, name: str, backward: bool = True):
    """Builds, saves, loads and runs one configuration both ways; written back, the arrays are the same bytes."""
    model = build(config)
    model.save_pretrained(folder)
    loaded = read(folder)
    module, params = loaded.take("autoencoder")
    assert module == hf_models.vit_mae_module(config) and loaded.target_norm == ("patch" if config.norm_pix_loss else "none")
    written = export_arrays(params, HF_VIT_MAE, module.encoder.grid)
    stored = {key: array for key, array in hf_models.stored(folder).items() if key not in loaded.ignored}
    assert all(written[found_name(key)].tobytes() == array.tobytes() for key, array in stored.items())

    grid = module.encoder.grid
    rng = np.random.default_rng(2)
    image = rng.normal(size=(batch, grid.height, grid.width, 3)).astype(np.float32)
    noise = rng.uniform(size=(batch, grid.tokens)).astype(np.float32)
    reference, restore = hf_models.vit_mae_run(model, image, noise, loaded.template(), backward)
    visible = masking.visible_count(grid.tokens, config.mask_ratio, "down")
    mask = jax.jit(masking.from_noise, static_argnums=1)(noise, visible)
    np.testing.assert_array_equal(mask.ids_restore, restore)
    clip = image[:, None]
    norm = "patch" if config.norm_pix_loss else "none"
    actual = hf_models.run_module(module, params, clip, clip, mask, norm, predict_all=True, backward=backward)
    hf_models.compare(actual, reference, name)
    return mask


def found_name(key: str) -> str:
    """The name of published files for one that transformers 5 writes."""
    return key.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


MORE = ("other sizes", "eps 1e-6")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE else []) for name in CASES])
def test_tiny(name, tmp_path):
    check(transformers.ViTMAEConfig(**TINY | CASES[name]), 2, tmp_path, name)


@pytest.mark.slow
def test_vit_b(tmp_path):
    """The published size, gradients with CVMAE_LARGE=1: 224 pixels, 49 of 196 tokens visible, decoder 512 x 8."""
    mask = check(
        transformers.ViTMAEConfig(norm_pix_loss=True), 1, tmp_path, "ViT-B", backward=bool(os.environ.get("CVMAE_LARGE"))
    )
    assert mask.num_visible == 49


def test_names_of_a_plain_state_dict(tmp_path):
    """The names in memory load too, and give what the names of save_pretrained give."""
    model = build(transformers.ViTMAEConfig(**TINY))
    model.save_pretrained(tmp_path)
    save_file({k: v.numpy() for k, v in model.state_dict().items()}, tmp_path / "plain.safetensors")
    one, two = (read(p, "hf-vit-mae").params for p in (tmp_path, tmp_path / "plain.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
