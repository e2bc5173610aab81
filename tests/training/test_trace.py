"""Traces for XProf: of the steps that were asked for and no others, without a change to the run."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.tasks.validate import validate
from cvmae.training.run_schedule import Schedule
from cvmae.training.trace import STEP_NAME
from tests.tiny_configs import config
from tests.training.counting_task import train


def traced_steps(workdir) -> list[list[int]]:
    """Returns the numbers of the steps in each trace of a workdir."""
    files = sorted((workdir / "profile").rglob("*.xplane.pb"))
    return [steps_of(jax.profiler.ProfileData.from_file(str(file))) for file in files]


def steps_of(data) -> list[int]:
    events = [event for plane in data.planes for line in plane.lines for event in line.events]
    return sorted(int(dict(event.stats)["step_num"]) for event in events if event.name == STEP_NAME)


def test_the_steps_asked_for_are_traced_and_the_run_is_the_same(tmp_path, capsys):
    plain = train(tmp_path / "plain", total="8_steps")
    traced = train(tmp_path / "traced", total="8_steps", profile="3:5")
    np.testing.assert_array_equal(traced.state.params["sum"], plain.state.params["sum"])
    assert traced_steps(tmp_path / "traced") == [[3, 4, 5]] and not (tmp_path / "plain" / "profile").exists()
    assert f"trace for XProf in {tmp_path / 'traced' / 'profile'}" in capsys.readouterr().err


def test_a_run_that_ends_within_them_writes_what_there_is(tmp_path, monkeypatch):
    from cvmae.training import loop

    def stop_at_4(self, stop, run=loop.TrainLoop.run):
        return run(self, lambda step: step == 4)

    monkeypatch.setattr(loop.TrainLoop, "run", stop_at_4)
    assert int(train(tmp_path, total="8_steps", profile="3:6").state.step) == 4
    monkeypatch.undo()
    assert traced_steps(tmp_path) == [[3, 4]]


@pytest.mark.parametrize("text", ["100", "5:3", "0:2", "a:b", "1:2:3", "-1:4"])
def test_a_text_that_is_no_range_is_refused(text):
    with pytest.raises(ConfigError, match="is no range of steps: write FIRST:LAST such as 100:105"):
        validate(config(profile=text))


def test_steps_beyond_the_run_are_refused_before_it_starts():
    with pytest.raises(ConfigError, match="config.profile='6:9' goes beyond the run, which has 8 steps"):
        Schedule.of(config(total="8_steps", profile="6:9"), clips=64)
