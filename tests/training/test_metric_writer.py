"""metrics.jsonl and TensorBoard events read as one run, whatever a kill left of them."""

import json

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvmae.training.metric_writer import MetricsWriter, NonFiniteError, check_finite, read_metrics, to_floats


def write(workdir, resumed: int, steps, value: float):
    writer = MetricsWriter(str(workdir), resumed)
    for step in steps:
        writer.write(step, {"loss": value, "loss/mse_video": value})
    writer.close()


def test_a_line_holds_the_step_and_flat_keys(tmp_path):
    write(tmp_path, 0, [1], 0.5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5, "loss/mse_video": 0.5}\n'


def test_a_line_is_on_disk_at_once(tmp_path):
    writer = MetricsWriter(str(tmp_path), 0)
    writer.write(1, {"loss": 1.0})
    assert len(read_metrics(str(tmp_path))) == 1
    writer.close()


@pytest.mark.parametrize("resumed", [0, 3, 5])
def test_a_restart_drops_what_lies_after_its_step(tmp_path, resumed):
    write(tmp_path, 0, range(1, 6), 1.0)
    write(tmp_path, resumed, range(resumed + 1, 8), 2.0)
    lines = read_metrics(str(tmp_path))
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert [line["loss"] for line in lines] == [1.0] * resumed + [2.0] * (7 - resumed)


@pytest.mark.parametrize("cut", ["", "{", '{"step": 4', '{"step": 4, "loss": 1.'])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, cut):
    write(tmp_path, 0, [1, 2, 3], 1.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(cut)
    write(tmp_path, 3, [4], 2.0)
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2, 3, 4]


def test_a_last_line_without_its_end_is_kept_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}))
    write(tmp_path, 1, [2], 2.0)
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2]


@pytest.mark.parametrize("resumed", [0, 3])
def test_tensorboard_shows_every_step_once(tmp_path, resumed):
    write(tmp_path, 0, range(1, 6), 1.0)
    write(tmp_path, resumed, range(resumed + 1, 7), 2.0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "loss/mse_video"}
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(step, 1.0 if step <= resumed else 2.0) for step in range(1, 7)]


def test_metrics_come_off_the_devices_as_sorted_floats():
    found = to_floats({"b": jnp.float32(2), "a": jnp.int32(1)})
    assert found == {"a": 1.0, "b": 2.0} and list(found) == ["a", "b"] and all(type(v) is float for v in found.values())


FINE = {"loss": 3.0, "loss/mse_video": 1.0, "loss/cross_frame": 2.0, "optimizer/grad_norm": 3.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_terms_that_are_not_finite_are_named_and_no_others(bad):
    check_finite(7, FINE, None)
    with pytest.raises(NonFiniteError, match="^step 7: loss/cross_frame is not finite .*the checkpoint of step 5 stays"):
        check_finite(7, FINE | {"loss/cross_frame": bad, "loss": bad}, 5)


def test_an_infinite_gradient_is_named_where_all_terms_are_finite():
    with pytest.raises(NonFiniteError, match="^step 7: optimizer/grad_norm is not finite .*no checkpoint was written yet"):
        check_finite(7, FINE | {"optimizer/grad_norm": float("inf")}, None)
