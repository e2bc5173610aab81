"""Drift from the start of a run: the numbers, the line that warns of a collapse, and both in a run of pre-training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from cvmae.config import ConfigError
from cvmae.evaluation.drift import DriftMonitor, Start, deviation, mean_cosine
from cvmae.evaluation.features import Features
from cvmae.objective.losses import feature_std
from cvmae.tasks import run as train
from tests.commands import metric_lines
from tests.properties.test_resume_tasks import Interrupted, interrupt
from tests.tiny_configs import config, make_task

DRIFT = {"drift/cka", "drift/cosine", "drift/std"}


def features(values, index=None):
    values = np.asarray(values, np.float32)
    rows = np.arange(len(values)) if index is None else np.asarray(index)
    return Features(values, np.full(len(values), -1), rows)


def test_the_cosine_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(2, 7, 5)) + 1
    assert mean_cosine(one, two) == pytest.approx(np.diag(cosine_similarity(one, two)).mean(), rel=1e-12)
    assert mean_cosine(one, 3 * one) == pytest.approx(1.0) and mean_cosine(one, -one) == pytest.approx(-1.0)
    assert np.isnan(mean_cosine(one, 0 * one))


def test_the_deviation_is_that_of_the_losses():
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert deviation(values) == pytest.approx(float(feature_std(jnp.asarray(values))), rel=1e-5)


class Fixed(DriftMonitor):
    """A monitor of features that are given."""

    def __init__(self, now, collapse=0.5):
        self.now, self.collapse = now, collapse

    def _features(self, params):
        return self.now


def test_clips_that_one_pass_could_not_read_are_left_out_of_both():
    values = np.random.default_rng(0).normal(size=(6, 4))
    monitor = Fixed(features(values[[0, 1, 2, 4, 5]], index=[0, 1, 2, 4, 5]))
    drift = monitor.compare(None, Start(features(values[1:], index=range(1, 6)), {}))
    assert set(drift) == DRIFT and all(value == pytest.approx(1.0) for value in drift.values())


def test_scaled_features_have_drifted_in_their_deviation_alone():
    values = np.random.default_rng(0).normal(size=(6, 4))
    drift = Fixed(features(0.25 * values)).compare(None, Start(features(values), {}))
    assert [drift[f"drift/{name}"] for name in ("cka", "cosine", "std")] == pytest.approx([1.0, 1.0, 0.25], rel=1e-5)


def test_collapsed_features_leave_out_what_is_undefined():
    values = np.random.default_rng(0).normal(size=(6, 4))
    assert Fixed(features(np.zeros((6, 4)))).compare(None, Start(features(values), {})) == {"drift/std": 0.0}


def test_a_line_warns_of_a_collapse_and_names_the_term_that_moved_most():
    start = Start(features([[0.0]]), {"loss": 3.0, "loss/mse_video": 1.0, "loss/intra_video": 2.0, "feature_std/video": 1.0})
    now = {"loss": 1.1, "loss/mse_video": 0.9, "loss/intra_video": 0.2, "feature_std/video": 0.1}
    monitor = Fixed(None)
    line = monitor.warning(40, {"drift/std": 0.12}, now, start)
    assert line.startswith("warning: step 40: the video encoder collapses") and "0.12 of that at the start" in line
    assert "loss/intra_video moved most since then (loss/mse_video 1 -> 0.9, loss/intra_video 2 -> 0.2)" in line
    assert "config.loss.intra_video" in line and "\n" not in line
    assert monitor.warning(40, {"drift/std": 0.5}, now, start) == "" == monitor.warning(40, {}, now, start)
    few = monitor.warning(
        40,
        {"drift/std": 0.6},
        now | {"feature_rank/video": 2.0},
        Start(start.features, start.metrics | {"feature_rank/video": 50.0}),
    )
    assert "the effective rank of its features over held-out clips is 0.04 of that at the start" in few
    worse = now | {"loss/mse_video": 9.0}
    assert "loss/mse_video moved most" in monitor.warning(40, {"drift/std": 0.12}, worse, start)


FIELDS = {
    "total": "4_steps",
    "eval_every": "2_steps",
    "monitor__clips": 16,
    "report__pictures": 0,
    "optimizer__warmup": "0_steps",
}


def test_the_start_has_not_drifted_and_a_collapsed_encoder_is_seen(capsys):
    t = make_task(config(("mse_video",), **FIELDS))
    t.check_data()
    state = t.initial_state()
    metrics = t.evaluate(state)
    assert [metrics[f"eval/{name}"] for name in sorted(DRIFT)] == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)
    assert "warning" not in capsys.readouterr().err
    # A last norm that passes nothing of the clip on.
    encoder = state.params["video"]["encoder"] | {
        "norm": {"scale": np.full(32, 1e-3, np.float32), "bias": np.ones(32, np.float32)}
    }
    collapsed = state.replace(params=state.params | {"video": state.params["video"] | {"encoder": encoder}})
    metrics = t.evaluate(collapsed)
    assert metrics["eval/drift/std"] == pytest.approx(1e-3, rel=0.1) and metrics["eval/drift/cka"] == pytest.approx(1.0, abs=1e-3)
    assert "the video encoder collapses" in (error := capsys.readouterr().err)
    # Its weight scales every gradient alike: no remedy for AdamW.
    assert "): lower config.optimizer.base_lr, or freeze more" in error and "config.loss" not in error


def test_a_resumed_run_compares_with_the_same_start(tmp_path, monkeypatch):
    c = config(("mse_video",), **FIELDS, optimizer__base_lr=1.0)
    train(c, str(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        interrupt(patched, 3)
        with pytest.raises(Interrupted):
            train(c, str(tmp_path / "pieces"))
    train(c, str(tmp_path / "pieces"))
    assert metric_lines(tmp_path / "whole") == metric_lines(tmp_path / "pieces")
    lines = [
        line for line in map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()) if "eval/loss" in line
    ]
    assert [line["step"] for line in lines] == [2, 4] and 0 < lines[1]["eval/drift/cka"] < 0.9999


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"eval_every": "0_steps"}, "config.monitor.clips=16, but config.eval_every is 0"),
        ({"video_branch__train": "lora:4"}, "config.video_branch.train: 'lora:4' is no part to train: give all, last:BLOCKS such as last:4"),
        ({"video_branch__train": "last:3"}, "'last:3': the number of its blocks, of 2, must be from 1 to 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_monitored_or_trained_is_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(config(("mse_video",), **FIELDS | overrides), str(tmp_path / "run"))


def test_frozen_blocks_of_pre_training_keep_their_bits_and_the_others_learn_as_before():
    fields = {"optimizer__clip_norm": 0.0, "optimizer__warmup": "0_steps", "optimizer__weight_decay": 0.0}
    some, every = (make_task(config(("mse_video",), video_branch__train=part, **fields)) for part in ("last:1", "all"))
    start = jax.device_get(some.initial_state())
    clips = np.random.default_rng(0).integers(0, 256, (8, 4, 40, 40, 3), dtype=np.uint8)
    batch = {"video": clips, "frame_index": np.zeros((8, 1), np.int32)}
    part, _ = some.step(some.initial_state(), batch)
    whole, _ = every.step(every.initial_state(), batch)
    for name in ("embed", "positions", "cls"):
        jax.tree.map(np.testing.assert_array_equal, part.params["video"]["encoder"][name], start.params["video"]["encoder"][name])
    old, new, full = (s.params["video"]["encoder"]["blocks"] for s in (start, part, whole))
    jax.tree.map(np.testing.assert_array_equal, new["block0"], old["block0"])
    assert not np.array_equal(full["block0"]["mlp_in"]["kernel"], old["block0"]["mlp_in"]["kernel"])
    np.testing.assert_allclose(new["block1"]["mlp_in"]["kernel"], full["block1"]["mlp_in"]["kernel"], atol=1e-6)
    moments = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(part.opt_state)]
    assert not [name for name in moments if "encoder" in name and ("block0" in name or "embed" in name)]
