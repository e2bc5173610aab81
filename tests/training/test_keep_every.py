"""Permanent checkpoints of a run: saved where they are due, kept over restarts, and no other stays."""

import pytest

from cvmae.config import ConfigError
from cvmae.tasks.validate import validate
from cvmae.training.run_schedule import Schedule
from tests.commands import assert_same_state, checkpoint_steps, saved_state
from tests.tiny_configs import config
from tests.training.counting_task import train


def test_snapshots_are_saved_beside_the_other_checkpoints_and_outlive_a_resumed_run(tmp_path):
    few = {"checkpoint_every": "2_steps", "checkpoint_keep": 1}
    train(tmp_path / "run", total="5_steps", checkpoint_keep_every="3_steps", **few)
    assert checkpoint_steps(tmp_path / "run") == [3, 5]  # the last step is one of every interval
    train(tmp_path / "run", total="8_steps", **few)
    assert checkpoint_steps(tmp_path / "run") == [3, 5, 8]
    train(tmp_path / "whole", total="8_steps", checkpoint_every="0_steps")
    assert checkpoint_steps(tmp_path / "whole") == [8]
    assert_same_state(saved_state(tmp_path / "run", 8), saved_state(tmp_path / "whole", 8))


def test_a_run_resumes_from_a_snapshot_that_is_the_newest(tmp_path):
    train(tmp_path, total="3_steps", checkpoint_every="0_steps", checkpoint_keep_every="3_steps")
    assert int(train(tmp_path, total="4_steps", checkpoint_every="0_steps").state.step) == 4
    assert checkpoint_steps(tmp_path) == [3, 4]


def test_its_interval_is_a_duration():
    assert Schedule.of(config(total="2_epochs", checkpoint_keep_every="50_percent"), clips=64).keep == 8
    with pytest.raises(ConfigError, match="config.checkpoint_keep_every='never' is no duration"):
        validate(config(checkpoint_keep_every="never"))


@pytest.mark.parametrize("total", ["4_steps", "2_epochs"])
def test_a_run_that_was_finished_says_so_and_ends_as_it_did(tmp_path, capsys, total):
    """With the metrics of its last logged step, and without a bar of steps that are not there."""
    first = train(tmp_path, total=total, log_every="3_steps", eval_every="1_steps")
    lines = (tmp_path / "metrics.jsonl").read_text()
    capsys.readouterr()
    again = train(tmp_path, total=total, log_every="3_steps", eval_every="1_steps")
    assert again.finished and again.metrics == first.metrics and "loss" in again.metrics
    said, step = capsys.readouterr().err, int(first.state.step)
    assert (
        said == f"this run was finished already, at step {step} of {step}: its results are computed from the checkpoint there\n"
    )
    assert (tmp_path / "metrics.jsonl").read_text() == lines
