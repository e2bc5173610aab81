"""A run whose numbers blow up stops, says where, and leaves checkpoints that can be used."""

import numpy as np
import pytest

from cvmae.tasks import run as train
from tests.commands import arguments, checkpoint_steps, metric_lines, run, saved_state
from tests.tiny_configs import config

ALONE = {f"loss__{term}": 0.0 for term in ("mse_image", "intra_video", "intra_frame", "cross_video", "cross_frame")}


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run whose second update sets parameters to about 1e15: finite, but not the loss that they give."""
    workdir = tmp_path_factory.mktemp("diverged")
    rate = {"optimizer__base_lr": 3.2e16, "optimizer__warmup": "1_steps", "optimizer__clip_norm": 0.0}
    return workdir, run(*arguments(workdir, checkpoint_every="1_steps", eval_every="0_steps", **ALONE, **rate))


def test_the_command_fails_with_the_term_and_the_step(diverged):
    _, done = diverged
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: step 3: loss/mse_video is not finite"), done.stderr[-2000:]
    assert "the checkpoint of step 2 stays" in last and "config.optimizer.base_lr" in last


def test_every_checkpoint_is_finite(diverged):
    workdir, _ = diverged
    assert checkpoint_steps(workdir) == [1, 2]
    for step in (1, 2):
        bad = [name for name, array in saved_state(workdir, step).items() if not np.isfinite(array).all()]
        assert not bad, bad


def test_no_line_of_the_failed_step_is_written(diverged):
    assert [line["step"] for line in metric_lines(diverged[0])] == [1, 2]


def test_the_run_goes_on_from_the_last_good_checkpoint(diverged, capsys):
    workdir, _ = diverged
    train(config(("mse_video",), total="2_steps", eval_every="0_steps", report__pictures=0), str(workdir))
    error = capsys.readouterr().err
    assert "this run was finished already, at step 2 of 2" in error
    assert "hf-videomae" not in error, "a note for the first start"
