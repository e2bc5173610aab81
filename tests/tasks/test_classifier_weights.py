"""`head.init=weights`: a classifier's weights are tested as they are or trained further; one of other classes is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.clip_views import TestViews
from cvmae.interop import read
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Head, Pretrained
from cvmae.tasks import run as train
from tests.interop.models import random_params
from tests.tiny_configs import downstream, make_task


def task(**overrides):
    c = downstream("finetune", **overrides)
    return make_task(c)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """An export of a classifier of the small config, its head's names those of the data."""
    t = task()
    params = random_params(t.model)
    folder = tmp_path_factory.mktemp("classifier") / "out"
    pixels = {name: tuple(t.config.augment[name]) for name in ("mean", "std")}
    head = Head(4, "mean", 1e-6, t.class_names)
    write_archive(Pretrained("a classifier", t.model.encoder, params, head=head, normalization=pixels), folder)
    return folder, params


def test_a_classifier_is_only_tested_or_trained_further(classifier, tmp_path, capsys):
    folder, params = classifier
    t = task(init_from=str(folder), head__init="weights")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(t.initial_state().params), params)
    c = downstream("finetune", init_from=str(folder), head__init="weights", total="0_steps")
    found = train(c, str(tmp_path / "run"))
    assert "classifier of 4 classes from" in capsys.readouterr().err
    plan = TestViews(c.test.clips, c.test.crops)
    expected = t.test(t.initial_state(), t.open_split("test_split"), plan)
    with np.load(tmp_path / "run" / "predictions.npz") as written:
        np.testing.assert_allclose(written["probabilities"], expected.probabilities, rtol=1e-5, atol=1e-6)
    assert 0 <= found["test/accuracy/top1"] <= 1 and not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"head__pool": "first"}, "these flags: --config.head.pool=mean$"),
        ({"head__eps": 1e-5}, "these flags: --config.head.eps=1e-06$"),
        ({"head__classes": 6}, "has 4 classes, the data 6: take head.init=new"),
        ({"video_branch__qkv_bias": "qv"}, "these flags: --config.video_branch.qkv_bias=qkv$"),
    ],
)
def test_a_classifier_that_is_another_one(overrides, message, classifier):
    with pytest.raises(ConfigError, match=message):
        task(init_from=str(classifier[0]), head__init="weights", **overrides).initial_state()


def test_classes_of_other_names_are_refused(classifier, tmp_path):
    folder = tmp_path / "out"
    found = read(classifier[0])
    head = dataclasses.replace(found.head, names=("falling", "rising", "turning", "resting"))
    write_archive(dataclasses.replace(found, head=head), folder)
    t = task(init_from=str(folder), head__init="weights")
    t.class_names = ("rising", "falling", "turning", "resting")
    with pytest.raises(
        ConfigError, match="are not the data's, first 0: 'falling' there, 'rising' here, 1: .*a classes.csv beside"
    ):
        t.initial_state()
    with pytest.raises(ConfigError, match="has no head: give a classifier's weights, or config.head.init=new"):
        write_archive(found.only("encoder"), tmp_path / "encoder")
        task(init_from=str(tmp_path / "encoder"), head__init="weights").initial_state()


def test_an_order_of_classes_and_a_loss_that_are_not_the_data_s_are_said(classifier, tmp_path, capsys):
    found = read(classifier[0])
    head = dataclasses.replace(found.head, names=(), loss="sigmoid")
    write_archive(dataclasses.replace(found, head=head), tmp_path / "out")
    t = task(init_from=str(tmp_path / "out"), head__init="weights")
    t.class_names = ("rising", "falling", "turning", "resting")
    t.initial_state()
    said = capsys.readouterr().err
    assert "note: the classes of the data have names, those of " in said and "number i is the same class in both cannot" in said
    assert "was trained with head.loss=sigmoid, and this task takes probabilities as for head.loss=softmax" in said
    task(init_from=str(classifier[0]), head__init="weights").initial_state()
    assert "note: the class" not in capsys.readouterr().err


def test_weights_that_are_replaced_under_their_name_are_told_at_a_resume(classifier, tmp_path, capsys):
    folder = tmp_path / "weights"
    write_archive(read(classifier[0]), folder)
    c = downstream("finetune", init_from=str(folder), total="2_steps")
    train(c, str(tmp_path / "run"))
    c.total = "3_steps"
    capsys.readouterr()
    train(c, str(tmp_path / "run"))
    assert "are others than" not in capsys.readouterr().err
    shutil.rmtree(folder)
    found = read(classifier[0])
    write_archive(dataclasses.replace(found, params=jax.tree.map(lambda leaf: leaf + 1, found.params)), folder)
    c.total = "4_steps"
    train(c, str(tmp_path / "run"))
    said = f"note: the weights in config.init_from={str(folder)!r} are others than at the start of the run, which continues with those it"
    assert said in capsys.readouterr().err
