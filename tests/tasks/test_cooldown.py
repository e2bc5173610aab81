"""Cooling down a run: what goes on of it, what is adapted to other clips, and which step of which run it is."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest

from cvmae.config import ConfigError, load
from cvmae.models.build import video_grid
from cvmae.models.positions import interpolate_params
from cvmae.storage.remote_path import RemotePath
from cvmae.tasks import run as train
from cvmae.tasks.model_fields import fill_fields
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.optimizer import path_of
from cvmae.workdir.saved_steps import COMMITTED
from tests.commands import assert_same_state, metric_lines, saved_state
from tests.properties.test_resume_tasks import Interrupted, interrupt
from tests.servers import serving, upload
from tests.tiny_configs import CONFIGS, TERMS, config, make_task, samples

ONLY = ("mse_video", "intra_video")
PARENT = {
    "total": "6_steps", "eval_every": "0_steps", "checkpoint_every": "3_steps", "checkpoint_keep": 9, "report__pictures": 0,
    "optimizer__schedule": "constant", "optimizer__warmup": "0_steps", "optimizer__ema_decay": 0.5,
}  # fmt: skip


def child(start, **overrides):
    """The config of a cooldown of the run in `start`."""
    fields = {"eval_every": "0_steps", "checkpoint_every": "2_steps", "report.pictures": 0}
    fields |= {f"loss.{term}": 0.0 for term in TERMS if term not in ONLY} | {"cooldown.init_from": str(start)}
    fields |= {name.replace("__", "."): value for name, value in overrides.items()}
    return load(f"{CONFIGS / 'ssv2.py'}:phase=cooldown,runlocal", fields)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """The workdir of a run at a constant rate, with checkpoints of steps 3 and 6."""
    folder = tmp_path_factory.mktemp("parent")
    train(config(ONLY, **PARENT), str(folder))
    return folder


@pytest.fixture
def changed(parent, tmp_path):
    """A function that copies the run with other fields in its config.json, and returns the copy."""

    def copy(**fields):
        folder = tmp_path / "copy"
        shutil.copytree(parent, folder)
        file = folder / "config.json"
        values = json.loads(file.read_text())
        for name, value in fields.items():
            node, parts = values, name.split("__")
            for part in parts[:-1]:
                node = node[part]
            node[parts[-1]] = value
        file.write_text(json.dumps(values))
        return folder

    return copy


def arrays(tree):
    return {path_of(keys): np.asarray(leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_the_first_step_is_the_one_that_the_run_would_have_done(parent):
    """On the batch, views and masks of the new seed: losses, parameters, average and moments, bit by bit."""
    c, notes = fill_fields(child(parent))
    assert c.cooldown.init_from == str(parent / "checkpoints" / "6") and c.seed == 1 and c.optimizer.base_lr == 1.6e-3
    assert "continues from" in notes[0] and "seed=1" in notes[0] and "optimizer.ema_decay=0.5" in notes[0]
    t, old = make_task(c), make_task(config(ONLY, **PARENT, seed=1))
    restored, _ = Checkpoints(parent, 9).restore(old.abstract_state())
    batch = {name: np.asarray(array) for name, array in samples(c, 8).items() if name in t.BATCH_KEYS}
    first = t.initial_state()
    assert int(first.step) == 0
    assert_same_state(arrays(first.params), arrays(restored.params))
    assert_same_state(arrays(first.ema), arrays(restored.ema))
    schedules = [
        node
        for node in jax.tree.leaves(first.opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))
        if isinstance(node, optax.ScaleByScheduleState)
    ]
    assert [int(node.count) for node in schedules] == [0]
    state, metrics = t.step(first, batch)
    expected, numbers = old.step(restored.replace(step=restored.step * 0), batch)
    assert float(metrics["loss"]) == float(numbers["loss"])
    assert float(metrics["optimizer/learning_rate"]) == float(numbers["optimizer/learning_rate"]) > 0
    assert_same_state(arrays(state.params), arrays(expected.params))
    assert_same_state(arrays(state.ema), arrays(expected.ema))
    moments, others = arrays(state.opt_state), arrays(expected.opt_state)
    assert_same_state(*({k: v for k, v in tree.items() if "/mu/" in k or "/nu/" in k} for tree in (moments, others)))


def test_positions_are_interpolated_to_more_frames_of_another_size(parent, capsys):
    c, _ = fill_fields(child(parent, data__num_frames=8, augment__size=(48, 48), video_branch__mask__ratio=0.75))
    t, old = make_task(c), config(ONLY)
    state, saved = t.initial_state(), saved_state(parent, 6)
    for tree, holder in ((state.params, "params"), (state.ema, "ema")):
        for stack in ("encoder", "decoder"):
            found = arrays(tree["video"][stack]["positions"])
            start = f"['{holder}']['video']['{stack}']['positions']"
            before = {name[len(start) + 2 : -2]: value for name, value in saved.items() if name.startswith(start)}
            expected = interpolate_params(before, video_grid(old), video_grid(c))
            assert expected["time"].shape[0] == 4 and expected["space"].shape[0] == 9
            for name, value in expected.items():
                np.testing.assert_array_equal(found[f"/{name}"], value)
    moments = arrays(state.opt_state)
    assert {name.rpartition("/mu")[2] for name, value in moments.items() if "/mu/" in name and not value.any()} >= {
        f"/video/{stack}/positions/{name}" for stack in ("encoder", "decoder") for name in ("time", "space")
    }
    error = capsys.readouterr().err
    assert (
        "positions/time 2 -> 4 time patches interpolated" in error
        and "moments of 4 arrays of other shapes start at zero" in error
    )
    loss, _ = jax.jit(t.objective)(state.params, samples(c, 8))
    assert np.isfinite(loss)


def test_a_killed_run_ends_in_the_same_bits_whatever_becomes_of_its_start(changed, tmp_path, monkeypatch):
    start, fields = changed(), {"total": "4_steps", "loss__intra_video": 0.0}
    c = child(start, **fields)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train(c, str(whole))
    with monkeypatch.context() as patched:
        interrupt(patched, 3)
        with pytest.raises(Interrupted):
            train(c, str(pieces))
    shutil.rmtree(start / "checkpoints" / "6")  # as a run that goes on deletes its older checkpoints
    train(c, str(pieces))
    assert_same_state(saved_state(whole, 4), saved_state(pieces, 4))
    assert metric_lines(whole) == metric_lines(pieces)
    recorded = json.loads((pieces / "config.json").read_text())
    assert recorded["cooldown"]["init_from"] == str(start / "checkpoints" / "6")
    assert (recorded["total"], recorded["seed"], recorded["optimizer"]["base_lr"]) == ("4_steps", 1, 1.6e-3)
    rates = [line["optimizer/learning_rate"] for line in metric_lines(whole)]
    assert rates == pytest.approx([1.6e-3 * 8 / 256 * left / 4 for left in (4, 3, 2, 1)], rel=1e-5)
    with pytest.raises(
        ConfigError, match="the checkpoint was made with cooldown.init_from=.*/6, this run has .*/3, so it cannot resume"
    ):
        train(child(start / "checkpoints" / "3", **fields), str(pieces))


def test_what_follows_from_the_run(changed):
    start = changed(total="16_epochs", optimizer__schedule="wsd", optimizer__cooldown="125_steps", optimizer__min_lr=0.0)
    c, _ = fill_fields(child(start))
    assert c.total == "8_steps"  # of `runlocal`
    with c.unlocked():
        c.total = None
    c, _ = fill_fields(c)
    assert c.total == "7_steps"  # a twentieth of 16 epochs of 64 clips in batches of 8, rounded up
    assert c.optimizer.base_lr == pytest.approx(1.6e-3 * 122 / 125, rel=1e-6)  # the cooldown of that run began at step 3
    given, notes = fill_fields(child(start / "checkpoints" / "3", optimizer__base_lr=0.5, seed=7))
    assert (given.optimizer.base_lr, given.seed) == (0.5, 7) and "optimizer.ema_decay=0.5" in notes[0]
    given, notes = fill_fields(child(start / "checkpoints" / "3", optimizer__base_lr=0.5, optimizer__ema_decay=0.9, seed=7))
    assert given.optimizer.ema_decay == 0.9 and notes == []


@pytest.mark.parametrize(
    "fields, overrides, message",
    [
        ({"task": "finetune"}, {}, "config.cooldown.init_from='.*' is the workdir of task=finetune: give that of a run of pre-training"),
        ({"optimizer__schedule": "cosine"}, {}, "the learning rate of .*checkpoints/6 is 0 there, so nothing is left to cool down"),
        ({}, {"video_branch__qkv_bias": "qv"}, "config.cooldown.init_from: the model in .* flags: --config.video_branch.qkv_bias=qkv"),
        ({}, {"contrast__width": 8}, "config.cooldown.init_from: .* does not fit"),
        pytest.param({}, {"loss__cross_video": 1.0}, "config.cooldown.init_from: .* does not fit", marks=pytest.mark.slow),
        ({}, {"video_branch__init_from": "."}, "config.cooldown.init_from with config.video_branch.init_from: the run continues with its own"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_go_on_is_refused(fields, overrides, message, changed, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(child(changed(**fields), **overrides), str(tmp_path / "run"))


@pytest.mark.parametrize(
    "start, message",
    [
        ("", "init_from is empty: phase=cooldown continues a run"),
        ("  ", "init_from is empty: phase=cooldown continues a run"),
        ("/no/run", "there is no folder /no/run: give"),
    ],
)
def test_a_run_that_is_not_there_is_refused_before_anything_is_written(start, message, tmp_path):
    with pytest.raises(ConfigError, match=f"config.cooldown.{message}" if not start.strip() else message):
        train(child(start), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_step_that_is_not_there_names_those_that_are(parent, tmp_path):
    with pytest.raises(ConfigError, match="has no complete checkpoint of step 4: take one of 3, 6"):
        train(child(parent / "checkpoints" / "4"), str(tmp_path / "run"))


def test_a_branch_without_a_term_is_left_out(parent, capsys):
    c, _ = fill_fields(child(parent, loss__intra_video=0.0))
    make_task(c).initial_state()
    assert "left out: video_head" in capsys.readouterr().err


def test_a_moving_average_that_is_left_out_is_said(parent, capsys):
    c, _ = fill_fields(child(parent, optimizer__ema_decay=0.0))
    assert make_task(c).initial_state().ema is None
    assert (
        f"left out: the moving average of {parent}/checkpoints/6, as config.optimizer.ema_decay is 0" in capsys.readouterr().err
    )


def test_a_run_in_a_bucket_goes_on(parent):
    with serving("s3") as bucket:
        run = upload(parent, f"{bucket}/run")
        for step in (3, 6):
            RemotePath(f"{run}/checkpoints/{step}/{COMMITTED}").write_text("complete")
        c, _ = fill_fields(child(run))
        assert c.cooldown.init_from == f"{run}/checkpoints/6" and c.optimizer.ema_decay == 0.5
        assert_same_state(arrays(make_task(c).initial_state()), arrays(make_task(fill_fields(child(parent))[0]).initial_state()))


def test_other_tasks_have_no_phase():
    with pytest.raises(ConfigError, match="config argument phase=cooldown is of task=pretrain, this is task=linear"):
        load(f"{CONFIGS / 'ssv2.py'}:task=linear,phase=cooldown")
