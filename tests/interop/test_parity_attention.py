"""Attention weights against transformers' `output_attentions=True` with the same weights: videos without, images with a cls token."""

from typing import Any

import jax
import numpy as np
import pytest

from cvmae.interop import read
from cvmae.visualize.attention import attention_weights
from tests.interop import hf_models
from tests.interop.parity import torch, transformers

SMALL: dict[str, Any] = {
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
CASES = {
    "videomae": (
        transformers.VideoMAEForPreTraining,
        transformers.VideoMAEConfig(image_size=16, num_frames=4, use_mean_pooling=False, **SMALL, **DECODER),
    ),
    "vit": (transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(image_size=24, mask_ratio=0.0, **SMALL, **DECODER)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_head_of_every_block(name, tmp_path):
    kind, config = CASES[name]
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = hf_models.shake(kind(config), seed=1)
    model = hf_models.with_tables(model) if name == "vit" else model
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("query.weight", "key.weight", "q_proj.weight", "k_proj.weight")):
                parameter.mul_(8)  # a fresh model attends to everything alike
    model.save_pretrained(tmp_path)
    loaded = read(tmp_path)
    grid = loaded.encoder.grid
    clips = np.random.default_rng(2).normal(size=(2, grid.num_frames, grid.height, grid.width, 3)).astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 1, 4, 2, 3)))
    # ViTMAE orders its tokens by noise, even where it hides none.
    rising = torch.arange(grid.tokens, dtype=torch.float32).expand(2, -1)
    inputs = (pixels,) if name == "videomae" else (pixels[:, 0],)
    with torch.no_grad():
        reference = getattr(model, name)(
            *inputs, output_attentions=True, **({} if name == "videomae" else {"noise": rising})
        ).attentions
    actual = jax.jit(lambda params: attention_weights(loaded.encoder, params, clips))(loaded.params["encoder"])
    assert len(actual) == len(reference) == 3
    for weights, expected in zip(actual, reference):
        assert weights.dtype == np.float32 and weights.shape == expected.shape and np.ptp(expected.numpy()) > 0.2
        np.testing.assert_allclose(np.asarray(weights).sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(weights, expected.numpy(), atol=2e-6)
