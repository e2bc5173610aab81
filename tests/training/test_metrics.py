"""Metrics read like one uninterrupted run, on disk and in TensorBoard."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvmae.training.metrics import MetricsWriter, NonFiniteError, check_finite, read_metrics, to_floats


def write(workdir, steps, resumed=0):
    writer = MetricsWriter(str(workdir), resumed)
    for step in steps:
        writer.write(step, {"loss": step / 8, "loss/mse_video": 1.0})
    writer.close()


def test_lines_after_the_resumed_step_are_written_again(tmp_path):
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 8), resumed=3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert read_metrics(tmp_path)[3] == {"step": 4, "loss": 0.5, "loss/mse_video": 1.0}


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    write(tmp_path, [3], resumed=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert not (tmp_path / "metrics.tmp").exists()


def test_tensorboard_reads_one_run(tmp_path):
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 8), resumed=3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "loss/mse_video"}
    found = events.Scalars("loss")
    assert sorted({event.step for event in found}) == [1, 2, 3, 4, 5, 6, 7]
    assert all(event.value == event.step / 8 for event in found)


def test_floats_are_sorted_by_name():
    assert list(to_floats({"b": jnp.float32(2), "a": jnp.int32(1)}).items()) == [("a", 1.0), ("b", 2.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    fine = {"loss/mse_video": 1.0, "loss/cross_frame": 2.0, "optimizer/grad_norm": 3.0}
    check_finite(7, fine, None)
    with pytest.raises(NonFiniteError, match="step 7: loss/cross_frame is not finite .*checkpoint of step 5 stays"):
        check_finite(7, fine | {"loss/cross_frame": bad}, 5)
    with pytest.raises(NonFiniteError, match="step 7: optimizer/grad_norm is not finite .*no checkpoint"):
        check_finite(7, fine | {"optimizer/grad_norm": bad}, None)
