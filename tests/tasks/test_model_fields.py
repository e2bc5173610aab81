"""Downstream tasks take the encoder's fields from the weights that they start from, and refuse what is set otherwise."""

import json

import pytest

from cvmae.config import ConfigError, load
from cvmae.tasks import run
from cvmae.tasks.model_fields import UNTRAINED_ENCODER, fill_fields
from cvmae.tasks.validate import validate
from tests.interop.encoder_folders import make_dinov2
from tests.tiny_configs import CONFIGS, PLAIN, config, downstream

OTHER = {
    "video_branch__variant": "mini/8",
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
    c = load(f"{CONFIGS / 'ssv2.py'}:task=knn,runlocal", {"init_from": str(workdir)})
    assert "knn/top1/k=10" in run(c, tmp_path / "knn")
    recorded = json.loads((tmp_path / "knn" / "config.json").read_text())["video_branch"]
    assert recorded["qkv_bias"] == "qv" and set(recorded) == {*UNTRAINED_ENCODER, "inflate"}


def test_what_is_set_is_left_and_refused_where_it_differs(workdir, tmp_path):
    c = downstream("knn", init_from=str(workdir))  # all of the encoder's fields are set
    assert fill_fields(c)[0] is c
    with pytest.raises(ConfigError, match=r"--config.video_branch.positions=learned.*--config.video_branch.qkv_bias=qv"):
        run(c, tmp_path / "knn")


def runlocal(argument, name="ssv2", **fields):
    """Returns the filled config of `configs/NAME.py:ARGUMENT,runlocal`."""
    return fill_fields(load(f"{CONFIGS / name}.py:{argument},runlocal", {k.replace("__", "."): v for k, v in fields.items()}))[0]


@pytest.mark.parametrize("name", ["ssv2", "motion"])  # `motion` has a variant of its own
def test_runlocal_takes_the_encoder_of_its_weights(workdir, name):
    c = runlocal("task=attentive", name, init_from=str(workdir), probe__heads=3)  # no divisor of runlocal's own width
    recorded = json.loads((workdir / "config.json").read_text())["video_branch"]
    assert {key: c.video_branch[key] for key in UNTRAINED_ENCODER} == {key: recorded[key] for key in UNTRAINED_ENCODER}
    validate(c)


@pytest.mark.parametrize("name", ["ssv2", "motion"])
def test_runlocal_is_tiny_unless_an_argument_sets_the_variant(workdir, name):
    assert runlocal("task=linear", name).video_branch.variant == "test/16"
    assert runlocal("task=linear", name, init_from="untrained").video_branch.variant == "test/16"
    assert runlocal("task=linear", name, video_branch__variant="Ti/16").video_branch.variant == "Ti/16"
    assert runlocal("task=linear,variant=mini/8", name).video_branch.variant == "mini/8"
    assert runlocal("task=linear,variant=mini/8", name, init_from=str(workdir)).video_branch.variant == "mini/8"
    c = runlocal("variant=mini/8", name)
    assert c.video_branch.variant == c.image_branch.variant == "mini/8"


@pytest.mark.parametrize("side, expected", [(14, 28), (18, 36), (20, 40), (24, 24), (80, 80), (16, 32)])
def test_runlocal_takes_frames_that_patches_fill(side, expected):
    filled, notes = fill_fields(load(f"{CONFIGS / 'ssv2.py'}:task=linear,runlocal,variant=test/{side}"))
    assert tuple(filled.augment.size) == (expected, expected)
    assert [f"({expected}, {expected}), the multiple of the patch size {side} nearest" in note for note in notes] == [True] * (
        expected != 32
    )
    validate(filled)


def test_sizes_that_are_asked_for_stay_as_they_are():
    fields = {"augment.size": (30, 30)}
    filled, notes = fill_fields(load(f"{CONFIGS / 'ssv2.py'}:task=linear,runlocal,variant=test/14", fields))
    assert tuple(filled.augment.size) == (30, 30) and not notes
    filled, notes = fill_fields(
        open_config(**{"init_from": "untrained", "video_branch.variant": "test/14", "augment.size": (32, 32)})
    )
    assert tuple(filled.augment.size) == (32, 32) and not notes
    for variant in ("test/0", "test", "test/x"):
        filled, notes = fill_fields(load(f"{CONFIGS / 'ssv2.py'}:task=linear,runlocal", {"video_branch.variant": variant}))
        assert tuple(filled.augment.size) == (32, 32) and not notes


def test_runlocal_runs_dinov2_whose_patches_are_of_14(tmp_path, capsys):
    weights = make_dinov2(tmp_path / "weights", side=42, patch=14).parent
    fields = {"init_from": str(weights), "data.num_frames": 1}
    run(load(f"{CONFIGS / 'ssv2.py'}:task=knn,runlocal", fields), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["augment"]["size"] == [28, 28]
    assert "note: runlocal takes augment.size=(28, 28)" in capsys.readouterr().err


def test_runlocal_compares_the_variant_of_its_argument_with_the_weights(workdir, tmp_path):
    c = load(f"{CONFIGS / 'ssv2.py'}:task=linear,variant=test/16,runlocal", {"init_from": str(workdir)})
    with pytest.raises(ConfigError, match="--config.video_branch.variant=mini/8"):
        run(c, tmp_path / "probe")


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
    assert len(notes) == 1 and "mini/8" in notes[0] and "variant=mini/8" in notes[0]


def test_missing_weights_are_one_line():
    with pytest.raises(ConfigError, match="config.init_from: no weights at no/where.*does not exist"):
        fill_fields(open_config(init_from="no/where/at/all"))


def test_a_config_of_before_is_left_alone():
    c = config(**PLAIN)
    assert fill_fields(c) == (c, [])
