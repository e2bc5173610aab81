"""Rotary positions in tasks: pre-training on visible tokens, and V-JEPA 2's classifier with its attentive pooler in fine-tuning."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.interop import read
from cvmae.tasks.validate import validate
from tests.interop.encoder_folders import make_vjepa2
from tests.tiny_configs import config, downstream, make_task, samples


def test_pretraining_on_visible_tokens():
    task = make_task(config(("mse_video",), video_branch__positions="rope3d", optimizer__warmup="0_steps"))
    before, drawn = task.initial_state(), samples(task.config, 8)
    assert "positions" not in before.params["video"]["encoder"]
    first = jax.tree.map(np.asarray, before.params)
    state, metrics = task.step(before, {name: drawn[name] for name in ("video", "frame_index")})
    assert np.isfinite(metrics["loss"])
    query = first["video"]["encoder"]["blocks"]["block0"]["attention"]["query"]["kernel"]
    assert (np.asarray(state.params["video"]["encoder"]["blocks"]["block0"]["attention"]["query"]["kernel"]) != query).any()


def classifier(folder, **changes):
    fields = {"variant": "test/8", "positions": "rope3d", "cls_token": False}
    fields = {f"video_branch__{name}": value for name, value in fields.items()}
    head = {"init": "weights", "pool": "attentive", "blocks": 1, "heads": 2}
    fields |= {f"head__{name}": value for name, value in head.items()} | {"data__synthetic__classes": 3}
    return downstream("finetune", init_from=str(folder), **(fields | changes))


def test_fine_tuning_starts_from_the_classifier_of_v_jepa_2(tmp_path):
    make_vjepa2(tmp_path)
    c = classifier(tmp_path)
    validate(c)
    found, expected = make_task(c).initial_state().params, read(tmp_path).params
    for part in ("pooler", "head"):
        jax.tree.map(np.testing.assert_array_equal, found[part], expected[part])
    with pytest.raises(ConfigError, match="these flags: --config.head.blocks=1"):
        make_task(classifier(tmp_path, head__blocks=2)).initial_state()


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="config.head.heads: width=32 is not a multiple of heads=3"):
        validate(classifier(tmp_path, head__heads=3))
