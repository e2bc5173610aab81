"""The meter of the input: steps that wait, steps that do not, and what it says of them."""

import time

import jax
import numpy as np
import pytest

from cvmae.storage.counters import FIELDS
from cvmae.training import loop
from cvmae.training.input_meter import InputMeter, Readers
from cvmae.training.metric_writer import read_metrics
from tests.training.counting_task import train

STEP, SLOW = 0.1, 0.3


def counts(clips: int, **per_clip) -> np.ndarray:
    return clips * np.array([({"clips": 1.0} | per_clip).get(name, 0.0) for name in FIELDS])


class Running:
    """An array of a step that ends at a time, as those of an accelerator, which does one step after another."""

    def __init__(self, end: float):
        self.end = end

    def block_until_ready(self):
        time.sleep(max(0.0, self.end - time.perf_counter()))
        return self


def run(readers: Readers, steps: int, wait: float, computes: float, **per_clip):
    """(metrics, line) of steps whose batch takes `wait` seconds, as the loop runs them: one ahead of the devices."""
    meter, before = InputMeter(readers), Running(time.perf_counter())
    for _ in range(steps + 1):
        asked = time.perf_counter()
        time.sleep(wait)
        drawn = time.perf_counter()
        running = Running(max(drawn, before.end) + computes)
        meter.started(asked, drawn, {"loss": running})
        jax.block_until_ready(before)
        before = running
    jax.block_until_ready(before)
    meter.close()
    total = counts(steps * readers.clips // readers.processes, **per_clip)
    return meter.report(total), meter.summary(total)


def test_a_slow_input_is_told_from_a_slow_step():
    """Waiting for a batch while the step before still runs costs nothing, and is not counted."""
    slow, [line] = run(Readers(8, 1, 1, 2), 6, SLOW, STEP, seconds=SLOW / 8, cpu_seconds=SLOW / 8)
    assert slow["input/idle_share"] == pytest.approx(1 - STEP / SLOW, abs=0.2)
    assert slow["input/given_clips_per_second"] == pytest.approx(8 / SLOW, rel=0.3)
    assert slow["input/wanted_clips_per_second"] > 1.5 * slow["input/given_clips_per_second"]
    assert slow["input/possible_clips_per_second"] == pytest.approx(8 / SLOW)
    assert line.startswith("input: the input limited the run by a factor of ")
    fast, [line] = run(Readers(8, 1, 1, 2), 6, STEP, SLOW, seconds=STEP / 8)
    assert fast["input/idle_share"] < 0.05
    assert fast["input/wanted_clips_per_second"] == pytest.approx(8 / SLOW, rel=0.3)
    assert (
        line.startswith("input: the accelerator limited the run, not the input: its steps took")
        and "1 reader could give 80" in line
    )


def of(readers, wanted: float, given: float, **per_clip):
    """The line of a run of 10 steps at such rates."""
    meter = InputMeter(readers)
    meter.close()
    clips = 10 * readers.clips
    meter._done, meter._busy = 10, clips / wanted
    meter._idle = clips / given - clips / wanted
    return meter.summary(counts(clips // readers.processes, **per_clip))[0]


@pytest.mark.parametrize(
    ("readers", "per_clip", "advice"),
    [
        (Readers(8, 1, 1, 8), {"seconds": 0.1, "cpu_seconds": 0.1}, "raise config.data.workers, for 4 readers in place of 1"),
        (
            Readers(8, 2, 1, 3),
            {"seconds": 0.2, "cpu_seconds": 0.2},
            "for 3 readers in place of 2, and for the rest smaller files",
        ),
        (Readers(8, 2, 1, 2), {"seconds": 0.2, "cpu_seconds": 0.2}, "all 2 cores decode, and 8 are needed: take smaller files"),
        (
            Readers(8, 1, 1, 2),
            {"seconds": 0.2, "cpu_seconds": 0.01},
            "the rest is waiting: raise config.data.threads, for 8 readers",
        ),
        (
            Readers(8, 1, 1, 2),
            {"seconds": 0.2, "cpu_seconds": 0.03, "queued_seconds": 0.16},
            "of which 0.03 s of a processor and 0.16 s of waiting for one: its cores are busy with the step",
        ),
        (Readers(8, 2, 2, 8), {"seconds": 0.2, "cpu_seconds": 0.2}, "raise config.data.workers, for 4 readers in place of 2"),
        (Readers(8, 9, 1, 9), {"seconds": 0.1, "cpu_seconds": 0.1}, "clips are read fast enough"),
    ],
)
def test_the_line_says_what_to_change(readers, per_clip, advice):
    line = of(readers, 40.0, 10.0, **per_clip)
    assert "by a factor of 4.00: its steps would have taken 40 clips/s, and were given 10" in line and advice in line


def test_an_accelerator_that_limits_is_said_with_what_the_readers_could_give():
    assert of(Readers(8, 4, 1, 8), 40.0, 39.0, seconds=0.02).endswith("took 40 clips/s; 4 readers could give 200")


def test_batches_that_were_read_ahead_give_no_verdict():
    """Readers slower than the steps, which a few steps do not notice."""
    line = of(Readers(8, 1, 1, 8), 40.0, 39.0, seconds=0.05, cpu_seconds=0.05)
    assert line == (
        "input: no step waited for the input, as batches were read ahead: the steps took 40 clips/s, 1 reader can give 20, "
        "so a longer run may wait: raise config.data.workers, for 2 readers in place of 1"
    )


def test_a_run_logs_it_and_ends_with_the_line(tmp_path, capsys):
    train(tmp_path / "run", total="12_steps")
    logged = {name for line in read_metrics(tmp_path / "run") for name in line}
    names = {
        "wanted_clips_per_second",
        "given_clips_per_second",
        "idle_share",
        "seconds_per_clip",
        "megabytes_per_second",
        "unreadable",
    }
    assert {f"input/{name}" for name in names} <= logged
    assert capsys.readouterr().err.splitlines()[-1].startswith("input: ")


def test_a_step_that_fails_ends_the_run_as_before(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("lost")

    monkeypatch.setattr(loop.TrainLoop, "read_metrics", fail)
    with pytest.raises(RuntimeError, match="lost"):
        train(tmp_path, total="3_steps")
