"""Metrics over steps as small charts: where every line, tick and label lies. The template draws them.

A chart has one metric, and a line for each run that logged it; what was evaluated on held-out clips, `eval/NAME`, is drawn with
NAME as dots. Lengths are those of the picture's own coordinates, WIDTH by HEIGHT.
"""

import dataclasses

import matplotlib.ticker
import numpy as np

from cvmae.report.gather import Run
from cvmae.report.words import is_share, number

# (title, what the names of its metrics start with, whether the axis starts at 0)
PANELS = (
    ("Loss terms", "loss", False),
    ("Accuracies", "accuracy/", True),
    ("Feature standard deviation", "feature_std/", True),
    ("Learning rate and norms", "optimizer/", True),
    ("Throughput", "time/", True),
    ("Other", "", False),
)
LEFT_OUT = ("time/seconds", "data/replaced_clips")  # one number says them
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 220, 46, 16, 8, 26
POINTS, STRIPS, TIP_LINES = 240, 40, 11


@dataclasses.dataclass(frozen=True)
class Line:
    """What a run logged of a metric: `path` of SVG; `dots` [(x, y)] instead of what was evaluated, and of a single value."""

    run: int
    evaluated: bool
    path: str
    dots: list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Strip:
    """A part of the x axis, to point at: where it starts and the values there, [(run, text)]."""

    x: float
    width: float
    step: int
    values: list[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A metric. last: (run, its last value as text); summary: the chart in words."""

    name: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    strips: list[Strip]
    last: list[tuple[int, str]]
    summary: str


class Axis:
    """From values to places, from low to high onto start to end."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, values):
        return self.start + (np.asarray(values, float) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round values on the axis."""
        values = matplotlib.ticker.MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        inside = (float(value) for value in values if self.low - slack <= value <= self.high + slack)
        return [0.0 if abs(value) < slack else value for value in inside]


def panels(runs: list[Run]) -> list[tuple[str, list[Chart]]]:
    """(title, its charts) of everything that the runs logged; all charts have the same steps."""
    names = sorted({name.removeprefix("eval/") for run in runs for name in run.series} - set(LEFT_OUT))
    steps = [step for run in runs for values in run.series.values() for step in values]
    found = []
    for title, prefix, from_zero in PANELS:
        mine, names = [n for n in names if n.startswith(prefix)], [n for n in names if not n.startswith(prefix)]
        charts = [chart for chart in (make_chart(name, runs, max(steps), from_zero) for name in mine) if chart]
        found += [(title, charts)] if charts else []
    return found


def make_chart(name: str, runs: list[Run], last_step: int, from_zero: bool) -> Chart | None:
    """The chart of a metric; None where no run has a finite value of it."""
    series = []
    for evaluated, prefix in ((False, ""), (True, "eval/")):
        for run, workdir in enumerate(runs):
            steps, values = _finite(workdir.series.get(prefix + name, {}))
            series += [(run, evaluated, steps, values)] if len(steps) else []
    if not series:
        return None
    values = np.concatenate([values for *_, values in series])
    low, high = _bounds(values.min(), values.max(), from_zero)
    x, y = Axis(0, max(last_step, 1), LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP)
    last, words = {}, []
    for run, evaluated, steps, values in series:
        held_out, text = " held out" if evaluated else "", number(values[-1], name)
        last[run] = beside(last.get(run, ""), text, evaluated)
        words.append(f"{runs[run].label}{held_out} {number(values[0], name)} at step {steps[0]}, {text} at step {steps[-1]}")
    return Chart(
        name,
        [_line(run, evaluated, x(steps), y(values)) for run, evaluated, steps, values in series],
        [(float(x(tick)), _steps_text(tick)) for tick in x.ticks(4)],
        [(float(y(tick)), _tick_text(tick, name)) for tick in y.ticks(4)],
        make_strips(name, series, x),
        sorted(last.items()),
        f"{name} over steps: {'; '.join(words)}",
    )


def make_strips(name: str, series, x: Axis) -> list[Strip]:
    """Where to point, and what was logged nearest to there; at most so many runs as there is room for."""
    logged = np.unique(np.concatenate([steps for _, _, steps, _ in series]))
    shown = logged[np.unique(np.linspace(0, len(logged) - 1, STRIPS).round().astype(int))]
    places = x(shown)
    edges = np.concatenate([[LEFT], (places[1:] + places[:-1]) / 2, [WIDTH - RIGHT]])
    reach = np.diff(shown).max(initial=1)
    found = []
    for number_, step in enumerate(shown):
        texts = {}
        for run, evaluated, steps, values in series:
            nearest = np.abs(steps - step).argmin()
            if abs(steps[nearest] - step) <= reach:
                text = number(values[nearest], name)
                texts[run] = beside(texts.get(run, ""), text, evaluated)
        found.append(Strip(edges[number_], edges[number_ + 1] - edges[number_], int(step), sorted(texts.items())[:TIP_LINES]))
    return found


def beside(trained: str, text: str, evaluated: bool) -> str:
    """`0.61 ○ 0.64`: a value, and that on held-out clips behind the dot that it is drawn as."""
    return f"{trained} ○\u00a0{text}".strip() if evaluated else text


def thin(values: np.ndarray, most: int = POINTS) -> np.ndarray:
    """Which of many points to draw, int [at most `most`], rising: the lowest and the highest of each of equal parts."""
    if len(values) <= most:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), most // 2 - 1)
    extremes = [part[pick(values[part])] for part in parts for pick in (np.argmin, np.argmax)]
    return np.unique([0, *extremes, len(values) - 1])


def _finite(values: dict[int, float]):
    """(steps, values) of the finite ones."""
    steps, numbers = np.array(list(values), int), np.array(list(values.values()), float)
    keep = np.isfinite(numbers)
    return steps[keep], numbers[keep]


def _bounds(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """The ends of the y axis, a little beyond the values."""
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
    return f"{100 * value:.6g} %" if is_share(name) else f"{value:.6g}"


def _steps_text(value: float) -> str:
    return matplotlib.ticker.EngFormatter(sep="")(value)
