"""The recipe of continued pre-training takes transformers' VideoMAE and ViT-MAE as they are saved, and starts from what they compute."""

import jax
import numpy as np
import pytest

from cvmae.config import load
from cvmae.interop.load import read
from cvmae.tasks import run
from cvmae.tasks.validate import validate
from tests.commands import metric_lines
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


def save_model(start, folder):
    """Saves a model of transformers with random weights."""
    torch.manual_seed(0)
    if start == "videomae":
        model = transformers.VideoMAEForPreTraining(
            transformers.VideoMAEConfig(**SIZES, **DECODER, num_frames=4, use_mean_pooling=False)
        )
    else:
        model = with_tables(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SIZES, **DECODER)))
    model.save_pretrained(folder)


@pytest.mark.parametrize("start", ["videomae", "mae"])
def test_it_starts_from_weights_of_transformers(start, tmp_path):
    save_model(start, tmp_path)
    c = load(f"{CONFIGS / 'adapt.py'}:start={start},runlocal", {"video_branch.init_from": str(tmp_path), "report.pictures": 0})
    validate(c)
    params = jax.device_get(make_task(c).initial_state().params["video"])
    weights = read(tmp_path).params
    names = ("encoder", "decoder") if start == "videomae" else ()
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, params[name], weights[name])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"]["blocks"], weights["encoder"]["blocks"])


def test_a_run_trains_the_last_block_alone_and_measures_how_far_it_drifts(tmp_path):
    """Its frozen parameters are still those of transformers; features of held-out clips are compared with the start's."""
    weights, workdir = tmp_path / "weights", tmp_path / "run"
    save_model("videomae", weights)
    fields = {
        "video_branch.init_from": str(weights),
        "video_branch.train": "last:1",
        "optimizer.base_lr": 0.1,
        "optimizer.warmup": "0_steps",
        "total": "4_steps",
        "eval_every": "2_steps",
        "monitor.clips": 8,
        "report.pictures": 0,
    }
    run(load(f"{CONFIGS / 'adapt.py'}:runlocal", fields), workdir)

    def part(encoder, name):
        return encoder["blocks"][name] if name.startswith("block") else encoder[name]

    before, after = read(weights).params["encoder"], read(workdir).params["encoder"]
    for name in ("embed", "block0"):
        jax.tree.map(np.testing.assert_array_equal, part(after, name), part(before, name))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), part(after, "block1"), part(before, "block1"))
    assert min(jax.tree.leaves(moved)) > 0
    drift = [line["eval/drift/cosine"] for line in metric_lines(workdir) if "eval/drift/cosine" in line]
    assert len(drift) == 2 and 1 > drift[0] > drift[1]
