"""The recipe of continued pre-training takes transformers' VideoMAE and ViT-MAE as they are saved, and starts from what they compute."""

import jax
import numpy as np
import pytest

from cvmae.config import load
from cvmae.interop.load import read
from cvmae.tasks.validate import validate
from tests.interop.hf_models import with_tables
from tests.interop.parity import torch, transformers
from tests.tiny_configs import CONFIGS, make_task

# Of the variant `test/16` on the clips of `runlocal`.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 16,
}
DECODER = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 128,
}


@pytest.mark.parametrize("start", ["videomae", "mae"])
def test_it_starts_from_weights_of_transformers(start, tmp_path):
    torch.manual_seed(0)
    if start == "videomae":
        model = transformers.VideoMAEForPreTraining(
            transformers.VideoMAEConfig(**SIZES, **DECODER, num_frames=4, use_mean_pooling=False)
        )
    else:
        model = with_tables(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SIZES, **DECODER)))
    model.save_pretrained(tmp_path)
    c = load(f"{CONFIGS / 'adapt.py'}:start={start},runlocal", {"video_branch.init_from": str(tmp_path), "report.pictures": 0})
    validate(c)
    params = jax.device_get(make_task(c).initial_state().params["video"])
    weights = read(tmp_path).params
    names = ("encoder", "decoder") if start == "videomae" else ()
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, params[name], weights[name])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"]["blocks"], weights["encoder"]["blocks"])
