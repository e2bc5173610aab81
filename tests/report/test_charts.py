"""Charts: lines lie where their values are, every run has its own, and nothing that is not finite is drawn."""

import re

import numpy as np
import pytest

from cvmae.report import charts
from cvmae.report.gather import Run


def run(label="run", **series) -> Run:
    return Run(label, label, series={name.replace("__", "/"): values for name, values in series.items()})


def points(path: str) -> np.ndarray:
    """The coordinates of a path, [n, 2]."""
    return np.array([list(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]])


def chart(name: str, *runs: Run, panel=0) -> charts.Chart:
    return next(c for c in charts.panels(list(runs))[panel][1] if c.name == name)


def test_a_line_lies_where_its_values_are():
    found = chart("loss", run(loss={0: 1.0, 50: 3.0, 100: 2.0}))
    places = points(found.lines[0].path)
    ticks = {float(text): y for y, text in found.y_ticks}
    steps = {float(text): x for x, text in found.x_ticks}
    assert places[0][0] == charts.LEFT and places[-1][0] == charts.WIDTH - charts.RIGHT
    np.testing.assert_allclose(places[:, 1], [ticks[1.0], ticks[3.0], ticks[2.0]], atol=0.06)  # larger is higher
    np.testing.assert_allclose([steps[0], steps[100]], places[[0, 2], 0], atol=0.06)
    assert (
        ticks[1.0] > ticks[2.0] > ticks[3.0]
        and charts.TOP < places[:, 1].min() < places[:, 1].max() < charts.HEIGHT - charts.BOTTOM
    )


def test_all_charts_of_a_task_have_the_same_steps():
    found = charts.panels([run(loss={10: 1.0, 20: 1.0}), run(accuracy__top1={10: 0.1, 200: 0.2})])
    assert [title for title, _ in found] == ["Loss terms", "Accuracies"]
    assert found[0][1][0].x_ticks == found[1][1][0].x_ticks


def test_different_tasks_have_charts_and_step_axes_of_their_own():
    runs = [run("a", loss={1: 1.0, 8000: 2.0}), run("b", loss={1: 3.0, 50: 1.0}), run("c", loss={4000: 1.0}), run("d")]
    for one, task in zip(runs, ("pretrain", "finetune", "pretrain", "linear")):
        one.config["task"] = task
    found = charts.panels(runs)
    assert [panel.title for panel in found] == ["Pre-training: loss terms", "Fine-tuning: loss terms"]
    pretrain, finetune = (panel.charts[0] for panel in found)
    assert [line.run for line in pretrain.lines] == [0, 2] and [line.run for line in finetune.lines] == [1]
    assert pretrain.x_ticks[-1][1] == "8k" and finetune.x_ticks[-1][1] == "40"
    assert "b 3 at step 1, 1 at step 50" in finetune.summary and "b " not in pretrain.summary


def test_every_run_has_its_line_and_held_out_values_are_dots():
    a, b = run("a", loss={1: 1.0, 2: 2.0}, eval__loss={2: 3.0}), run("b", loss={1: 5.0, 2: 6.0})
    found = chart("loss", a, b)
    assert [(line.run, line.evaluated, bool(line.path), len(line.dots)) for line in found.lines] == [
        (0, False, True, 0), (1, False, True, 0), (0, True, False, 1),
    ]  # fmt: skip
    assert found.last == [(0, "2 ○\u00a03"), (1, "6")]
    assert "a 1 at step 1, 2 at step 2; b 5 at step 1, 6 at step 2; a held out 3 at step 2" in found.summary
    assert found.strips[-1].step == 2 and found.strips[-1].values == [(0, "2 ○\u00a03"), (1, "6")]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_left_out(bad):
    found = chart("loss", run(loss={1: 1.0, 2: bad, 3: 2.0}))
    assert len(points(found.lines[0].path)) == 2 and "nan" not in found.lines[0].path
    assert charts.panels([run(loss={1: bad})]) == []
    assert charts.panels([run()]) == []


@pytest.mark.parametrize("values", [{1: 0.0}, {1: 7.0, 2: 7.0}, {1: -3.0, 2: -3.0}, {1: 1e-12, 2: 2e-12}, {1: 1e30, 2: -1e30}])
@pytest.mark.parametrize("name", ["loss", "accuracy__a"])
def test_any_range_of_values_has_ticks_and_lies_within(name, values):
    [[_, [found]]] = charts.panels([run(**{name: values})])
    [line] = found.lines
    places = np.array(line.dots) if line.dots else points(line.path)
    assert (
        np.isfinite(places).all() and (places[:, 1] >= charts.TOP).all() and (places[:, 1] <= charts.HEIGHT - charts.BOTTOM).all()
    )
    assert len(found.y_ticks) >= 2 and len({text for _, text in found.y_ticks}) == len(found.y_ticks)


def test_fractions_are_in_percent_from_zero():
    found = chart("accuracy/top1", run(accuracy__top1={1: 0.5, 2: 0.75}))
    assert found.last == [(0, "75.0\u00a0%")] and found.y_ticks[0] == (charts.HEIGHT - charts.BOTTOM, "0 %")


def test_a_long_run_is_thinned_and_keeps_its_peaks():
    values = np.sin(np.arange(10_000) / 50)
    values[7_777], values[1_234] = 9.0, -9.0
    keep = charts.thin(values)
    assert len(keep) <= charts.POINTS and {0, 1_234, 7_777, 9_999} <= set(keep) and (np.diff(keep) > 0).all()
    found = chart("loss", run(loss=dict(enumerate(values))))
    assert len(found.strips) == charts.STRIPS and len(points(found.lines[0].path)) == len(keep)


def test_strips_cover_the_axis_and_say_what_was_logged_there():
    a, b = run("a", loss={10 * i: float(i) for i in range(1, 21)}), run("b", loss={100: 1.0, 200: 2.0})
    strips = chart("loss", a, b).strips
    ends = [strip.x + strip.width for strip in strips]
    np.testing.assert_allclose([strip.x for strip in strips[1:]], ends[:-1])
    assert strips[0].x == charts.LEFT and ends[-1] == charts.WIDTH - charts.RIGHT
    said = {strip.step: dict(strip.values) for strip in strips}
    assert said[10] == {0: "1"} and said[100] == {0: "10", 1: "1"} and said[200] == {0: "20", 1: "2"}


def test_the_clock_is_no_chart():
    [[title, [found]]] = charts.panels(
        [run(time__seconds={1: 1.0}, data__replaced_clips={1: 0}, time__clips_per_second={1: 9.0})]
    )
    assert (title, found.name) == ("Throughput", "time/clips_per_second")
