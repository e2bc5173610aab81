"""Downstream tasks take the encoder's fields from the weights that they start from, and refuse what is set otherwise."""

import json

import pytest

from cvmae.config import ConfigError, load
from cvmae.tasks import run
from cvmae.tasks.model_fields import UNTRAINED_ENCODER, fill_fields
from cvmae.tasks.validate import validate
from tests.tiny_configs import CONFIGS, PLAIN, config, downstream

OTHER = {
    "video_branch__positions": "learned",
    "video_branch__cls_token": False,
    "video_branch__qkv_bias": "qv",
    "video_branch__eps": 1e-5,
    "video_branch__mlp": "gelu_tanh",
}


def open_config(task="linear", **fields):
    """Returns a config of a downstream task that leaves the encoder's fields to the weights."""
    return load(f"{CONFIGS / 'ssv2.py'}:task={task}", fields)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of pre-training whose encoder differs from the defaults in every field that can."""
    folder = tmp_path_factory.mktemp("pretrain") / "run"
    decoder = {"video_branch__decoder__cls": "none"}
    run(config(("mse_video",), total="1_steps", eval_every="0_steps", report__pictures=0, **(OTHER | decoder)), folder)
    return folder


def test_what_the_config_leaves_open_is_that_of_the_workdir(workdir):
    filled, _ = fill_fields(open_config(init_from=str(workdir)))
    recorded = json.loads((workdir / "config.json").read_text())["video_branch"]
    assert {name: filled.video_branch[name] for name in UNTRAINED_ENCODER} == {name: recorded[name] for name in UNTRAINED_ENCODER}
    assert filled.is_locked


def test_a_task_runs_with_the_fields_of_its_workdir(workdir, tmp_path):
    c = downstream("knn", init_from=str(workdir))
    with c.unlocked():
        for name in UNTRAINED_ENCODER:
            c.video_branch[name] = None
    assert "knn/top1/k=10" in run(c, tmp_path / "knn")
    assert json.loads((tmp_path / "knn" / "config.json").read_text())["video_branch"]["qkv_bias"] == "qv"


def test_what_is_set_is_left_and_refused_where_it_differs(workdir, tmp_path):
    c = downstream("knn", init_from=str(workdir))  # runlocal sets all of the encoder's fields
    assert fill_fields(c)[0] is c
    with pytest.raises(ConfigError, match=r"--config.video_branch.positions=learned.*--config.video_branch.qkv_bias=qv"):
        run(c, tmp_path / "knn")


@pytest.mark.parametrize("task", ["finetune", "linear", "extract"])
def test_an_untrained_encoder_is_that_of_pretraining(task):
    filled, notes = fill_fields(open_config(task, init_from="untrained"))
    pretrain = load(f"{CONFIGS / 'ssv2.py'}:")
    assert {name: filled.video_branch[name] for name in UNTRAINED_ENCODER} == {
        name: pretrain.video_branch[name] for name in UNTRAINED_ENCODER
    }
    assert notes == []
    validate(filled)


def test_the_argument_of_a_config_sets_the_variant():
    c = load(f"{CONFIGS / 'ssv2.py'}:task=linear,variant=L/16")
    assert c.video_branch.variant == "L/16"
    assert c.video_branch.positions is None


def test_a_recipe_of_another_size_is_noted(workdir):
    _, notes = fill_fields(open_config("finetune", init_from=str(workdir)))
    assert len(notes) == 1 and "test/16" in notes[0] and "variant=test/16" in notes[0]


def test_missing_weights_are_one_line():
    with pytest.raises(ConfigError, match="config.init_from: no weights at no/where.*does not exist"):
        fill_fields(open_config(init_from="no/where/at/all"))


def test_a_config_of_before_is_left_alone():
    c = config(**PLAIN)
    assert fill_fields(c) == (c, [])
