"""Layout of small charts of metrics over steps: coordinates of lines, ticks and labels, which the template draws.

A chart shows one metric, with a line for each run of one task that logged it; evaluations on held-out clips, `eval/NAME`, are
dots in the chart of NAME. Coordinates are those of the SVG's view box, WIDTH by HEIGHT.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.ticker
import numpy as np

from cvmae.report.gather import Run
from cvmae.report.words import TASK_TITLES, is_fraction, number

# (title, prefix of the names of its metrics, True if the axis starts at 0)
PANELS = (
    ("Loss terms", "loss", False),
    ("Accuracies", "accuracy/", True),
    ("Mean average precision", "mAP", True),
    ("Feature standard deviation", "feature_std/", True),
    ("Effective rank of features", "feature_rank/", True),
    ("Drift from the start", "drift/", True),
    ("Learning rate and norms", "optimizer/", True),
    ("Throughput", "time/", True),
    ("Input", "input/", True),
    ("Other", "", False),
)
LEFT_OUT = ("time/seconds", "data/replaced_clips")  # shown as single numbers
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 220, 46, 16, 8, 26
POINTS, STRIPS, TIP_LINES = 240, 40, 11


@dataclasses.dataclass(frozen=True)
class Line:
    """The values of a metric of one run.

    Attributes:
      run: index of the run.
      evaluated: True for values on held-out clips.
      path: an SVG path; empty if the values are drawn as dots.
      dots: [(x, y)] of held-out values, and of a single value.
    """

    run: int
    evaluated: bool
    path: str
    dots: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Strip:
    """An interval of the x axis that shows values when pointed at.

    Attributes:
      x: its left end.
      width: its width.
      step: the step shown.
      values: [(index of a run, its values as text)].
    """

    x: float
    width: float
    step: int
    values: list[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """The chart of a metric.

    Attributes:
      name: the metric.
      lines: the lines and dots.
      x_ticks: [(x, label)].
      y_ticks: [(y, label)].
      strips: the intervals of the x axis, from left to right.
      last: [(index of a run, its last value as text)].
      summary: the chart as text, for screen readers.
    """

    name: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    strips: list[Strip]
    last: list[tuple[int, str]]
    summary: str


class Panel(NamedTuple):
    """Charts under one title."""

    title: str
    charts: list[Chart]


class Series(NamedTuple):
    """The finite values of a metric: index of the run, True for held-out clips, steps int [n], values float [n]."""

    run: int
    evaluated: bool
    steps: np.ndarray
    values: np.ndarray


class Axis:
    """Linear map from values in low..high to coordinates from start to end."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, values):
        return self.start + (np.asarray(values, float) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Returns round values on the axis, about `count`."""
        values = matplotlib.ticker.MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        inside = (float(value) for value in values if self.low - slack <= value <= self.high + slack)
        return [0.0 if abs(value) < slack else value for value in inside]


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Makes the charts of every metric that the runs logged.

    Runs of one task share the step axis. Runs of different tasks have panels of their own, whose titles name the task: a step of
    pre-training is not comparable to one of fine-tuning.
    """
    by_task: dict[str, dict[int, Run]] = {}
    for run_number, run in enumerate(runs):
        if any(run.series.values()):
            by_task.setdefault(run.task, {})[run_number] = run
    result = []
    for task, group in by_task.items():
        prefix = f"{TASK_TITLES.get(task, task) or 'Unknown task'}: " if len(by_task) > 1 else ""
        for title, charts in _panels_of_task(group):
            result.append(Panel(f"{prefix}{title[0].lower()}{title[1:]}" if prefix else title, charts))
    return result


def _panels_of_task(runs: Mapping[int, Run]) -> list[Panel]:
    """Makes the charts of {index: run} of one task; all have the same step axis."""
    names = sorted({name.removeprefix("eval/") for run in runs.values() for name in run.series} - set(LEFT_OUT))
    last_step = max(step for run in runs.values() for values in run.series.values() for step in values)
    result = []
    for title, prefix, from_zero in PANELS:
        members, names = [n for n in names if n.startswith(prefix)], [n for n in names if not n.startswith(prefix)]
        charts = [chart for chart in (make_chart(name, runs, last_step, from_zero) for name in members) if chart]
        result += [Panel(title, charts)] if charts else []
    return result


def make_chart(name: str, runs: Mapping[int, Run], last_step: int, from_zero: bool) -> Chart | None:
    """Makes the chart of a metric of {index: run}; returns None if no run has a finite value of it."""
    series = []
    for evaluated, prefix in ((False, ""), (True, "eval/")):
        for run_number, run in runs.items():
            steps, values = _finite(run.series.get(prefix + name, {}))
            series += [Series(run_number, evaluated, steps, values)] if len(steps) else []
    if not series:
        return None
    every = np.concatenate([values for *_, values in series])
    low, high = _bounds(float(every.min()), float(every.max()), from_zero)
    x, y = Axis(0, max(last_step, 1), LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP)
    last: dict[int, str] = {}
    texts = []
    for run_number, evaluated, steps, values in series:
        held_out, text = " held out" if evaluated else "", number(values[-1], name)
        last[run_number] = beside(last.get(run_number, ""), text, evaluated)
        label = f"{runs[run_number].label}{held_out}"
        texts.append(f"{label} {number(values[0], name)} at step {steps[0]}, {text} at step {steps[-1]}")
    return Chart(
        name,
        [_line(run_number, evaluated, x(steps), y(values)) for run_number, evaluated, steps, values in series],
        [(float(x(tick)), _steps_text(tick)) for tick in x.ticks(4)],
        [(float(y(tick)), _tick_text(tick, name)) for tick in y.ticks(4)],
        make_strips(name, series, x),
        sorted(last.items()),
        f"{name} over steps: {'; '.join(texts)}",
    )


def make_strips(name: str, series: Sequence[Series], x: Axis) -> list[Strip]:
    """Divides the x axis into strips, each with the values logged nearest to its step, for at most TIP_LINES runs."""
    logged = np.unique(np.concatenate([steps for _, _, steps, _ in series]))
    shown = logged[np.unique(np.linspace(0, len(logged) - 1, STRIPS).round().astype(int))]
    centers = x(shown)
    edges = np.concatenate([[LEFT], (centers[1:] + centers[:-1]) / 2, [WIDTH - RIGHT]])
    reach = np.diff(shown).max(initial=1)
    strips = []
    for left, right, step in zip(edges[:-1], edges[1:], shown):
        texts: dict[int, str] = {}
        for run_number, evaluated, steps, values in series:
            nearest = np.abs(steps - step).argmin()
            if abs(steps[nearest] - step) <= reach:
                text = number(values[nearest], name)
                texts[run_number] = beside(texts.get(run_number, ""), text, evaluated)
        strips.append(Strip(left, right - left, int(step), sorted(texts.items())[:TIP_LINES]))
    return strips


def beside(trained: str, text: str, evaluated: bool) -> str:
    """Appends a held-out value, marked by the dot that it is drawn as: `0.61 ○ 0.64`; other values are returned as they are."""
    return f"{trained} ○\u00a0{text}".strip() if evaluated else text


def thin(values: np.ndarray, most: int = POINTS) -> np.ndarray:
    """Selects the points to draw, int [at most `most`], ascending: the minimum and the maximum of each of equal intervals."""
    if len(values) <= most:
        return np.arange(len(values))
    intervals = np.array_split(np.arange(len(values)), most // 2 - 1)
    extremes = [indices[pick(values[indices])] for indices in intervals for pick in (np.argmin, np.argmax)]
    return np.unique([0, *extremes, len(values) - 1])


def _finite(values: dict[int, float]):
    """Returns steps and values as arrays, without values that are not finite."""
    steps, numbers = np.array(list(values), int), np.array(list(values.values()), float)
    keep = np.isfinite(numbers)
    return steps[keep], numbers[keep]


def _bounds(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """Returns the ends of the y axis, with a margin around the values."""
    low = min(low, 0.0) if from_zero else low
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if from_zero and low == 0 else low - room), high + room


def _line(run: int, evaluated: bool, x, y) -> Line:
    keep = thin(y)
    points = [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x[keep], y[keep])]
    if evaluated or len(points) == 1:
        return Line(run, evaluated, "", points)
    return Line(run, evaluated, "M" + "L".join(f"{a:g} {b:g}" for a, b in points), [])


def _tick_text(value: float, name: str) -> str:
    return f"{100 * value:.6g} %" if is_fraction(name) else f"{value:.6g}"


def _steps_text(value: float) -> str:
    return matplotlib.ticker.EngFormatter(sep="")(value)
