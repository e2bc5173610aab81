"""A run that goes on with more devices, and then laid out over them in another way, gives the numbers of one device."""

import itertools
import signal
from typing import Any

import numpy as np
import pytest

from tests.commands import metric_lines, saved_state
from tests.properties.metric_history import TOTAL, History

pytestmark = pytest.mark.slow

# What is compared here is a layout; the contrast on every layout is compared in test_meshes.
FEWER = {"loss__intra_video": 0.0, "eval_every": "0_steps", "optimizer__ema_decay": 0.5}
STOPS: tuple[tuple[int, dict[str, Any], int], ...] = (
    (1, {}, 2),
    (8, {"mesh__data": 8, "optimizer_sharding": "data"}, 5),
    (8, {"mesh__data": 2, "mesh__fsdp": 2, "mesh__model": 2, "scan": True}, 0),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on one device, and one that was stopped and went on as STOPS says; with how each stage of that ended."""
    whole, pieces = (History(tmp_path_factory.mktemp(name)) for name in ("whole", "pieces"))
    [end] = whole.go(1, **FEWER)
    assert end.returncode == 0, end.stderr
    stages = [
        pieces.go(1, (signal.SIGTERM if step else 0, 0, step), devices, **FEWER, **overrides)[0]
        for devices, overrides, step in STOPS
    ]
    return whole, pieces, stages


def test_each_stage_goes_on_where_the_last_one_stopped(runs):
    _, _, stages = runs
    assert [stage.returncode for stage in stages] == [0] * 3, [stage.stderr[-2000:] for stage in stages]
    for stopped, resumed in itertools.pairwise(stages):
        step = int(stopped.stderr.partition("stopped at step ")[2].partition(" of 8, saved")[0])
        assert f"resumed from the checkpoint of step {step}" in resumed.stderr
    for (devices, *_), stage in zip(STOPS, stages):
        assert f"{devices} cpu device(s)" in stage.stderr


def test_the_same_clips_in_the_same_order(runs):
    alone, several = (history.clips() for history in runs[:2])
    assert sorted(several) == sorted(alone) == list(range(1, TOTAL + 1))
    assert {count for batches in several.values() for count in batches} == {1, 8}
    for step, batches in several.items():
        assert all(clips == alone[step][1] for clips in batches.values()), step


def test_the_same_losses_and_parameters(runs):
    whole, pieces, _ = runs
    lines = [metric_lines(history.workdir) for history in (whole, pieces)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for one, other in zip(*lines):
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=2e-5, err_msg=f"{name} of step {one['step']}")
    alone, several = (saved_state(history.workdir, TOTAL) for history in (whole, pieces))
    scale = max(np.abs(array).max() for name, array in alone.items() if "nu" not in name)
    for name, array in alone.items():
        np.testing.assert_allclose(several[name], array, rtol=1e-4, atol=1e-6 * scale, err_msg=name)
