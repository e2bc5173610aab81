"""Command: a table of the accuracies of many runs, `python -m cvmae.report.summary OUT`, with runs in OUT/NAME/SEED/TASK.

A row is a NAME, a column a TASK; a cell is the mean ± standard deviation over the SEEDs that have finished of the run's accuracy, in %:
top-1, or mAP where clips have several labels; of retrieval, R@1 of clips of the same class. `pretrain (s)` is the time of
pre-training, in seconds, with compilation and without evaluations. A cell without a run is empty.
"""

import json
import sys

import numpy as np

from cvmae.storage.path import AnyPath, as_path
from cvmae.workdir import CONFIG, REPORT, Report, Workdir
from cvmae.workdir.metric_lines import read_lines

ACCURACIES = ("accuracy/top1", "mAP")  # of a test: with one label a clip, and with several
NEIGHBORS = ("top1/k=20", "mAP/k=20")  # the same of kNN
RETRIEVAL = "same_class/r1"
SECONDS = "pretrain (s)"  # heading of the time of pre-training


def accuracy(report: Report) -> float | None:
    """Returns the accuracy (0..1) of a report: test top-1 or mAP, or that of kNN with 20 neighbors; None without one."""
    return next((report.metrics[name] for name in accuracy_names(report) if name in report.metrics), None)


def accuracy_names(report: Report) -> tuple[str, ...]:
    """Returns the names of the metric that `accuracy` takes, with one label a clip and with several."""
    return NEIGHBORS if report.task == "knn" else ACCURACIES


def score(report: Report) -> float | None:
    """Returns the number (0..1) of a report that the table shows: `accuracy`, or of retrieval R@1 of the same class."""
    return report.metrics.get(RETRIEVAL) if report.task == "retrieval" else accuracy(report)


def training_seconds(workdir: Workdir) -> float | None:
    """Returns the seconds of training that a finished pre-training logged last; None for other runs.

    A run whose `total` is in steps, and whose last logged step is before it, has not finished.
    """
    config = workdir.read_config() or {}
    if config.get("task") != "pretrain":
        return None
    logged = [line for line in map(_parse, read_lines(workdir.path)) if "time/seconds" in line]
    amount, _, unit = str(config.get("total", "")).partition("_")
    unfinished = unit == "steps" and logged and logged[-1]["step"] < float(amount)
    return logged[-1]["time/seconds"] if logged and not unfinished else None


def _parse(line: str) -> dict:
    """Parses a line of metrics.jsonl; {} for one that a kill cut short."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


def _files(folder, name: str) -> list[AnyPath]:
    """Returns the files of a name in the runs below a folder, sorted."""
    paths: list[AnyPath] = list(as_path(folder).glob(f"*/*/*/{name}"))
    return sorted(paths, key=str)


def collect_seconds(folder) -> dict[str, list[float]]:
    """Returns {name: seconds of pre-training of the seeds} of the finished runs below a folder."""
    rows: dict[str, list[float]] = {}
    for path in _files(folder, CONFIG):
        value = training_seconds(Workdir(path.parent))
        if value is not None:
            rows.setdefault(path.parts[-4], []).append(value)
    return rows


def collect(folder) -> dict[str, dict[str, list[float]]]:
    """Returns {name: {task: accuracies of the seeds}} of the finished runs below a folder, as `score` takes them."""
    rows: dict[str, dict[str, list[float]]] = {}
    for path in _files(folder, REPORT):
        name, _, task = path.parts[-4:-1]
        report = Workdir(path.parent).read_report()
        value = None if report is None else score(report)
        if value is not None:
            rows.setdefault(name, {}).setdefault(task, []).append(value)
    return rows


def mean_deviation(values: list[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation; for a single value the latter is undefined: None."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def cell(values: list[float], is_fraction: bool = True) -> str:
    """Formats mean ± standard deviation: `62.1 ± 3.4` for fractions, in %, `0.621 ± 0.034` for other numbers.

    A single value has no standard deviation; no value gives an empty cell.
    """
    return plus_minus(values, 100, 1) if is_fraction else plus_minus(values, 1, 3)


def plus_minus(values: list[float], scale: float, digits: int) -> str:
    """Formats mean ± standard deviation, times `scale`, with `digits` decimals; see `cell`."""
    if not values:
        return ""
    mean, deviation = mean_deviation(values)
    return f"{scale * mean:.{digits}f}" + ("" if deviation is None else f" ± {scale * deviation:.{digits}f}")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Formats a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def table(folder) -> str:
    """Formats the accuracies of all runs below a folder, and the seconds of pre-training, as a Markdown table."""
    rows, seconds = collect(folder), collect_seconds(folder)
    tasks = sorted({task for row in rows.values() for task in row})
    lines = [[name, *(cell(rows.get(name, {}).get(task, [])) for task in tasks)] for name in sorted(rows | seconds)]
    if seconds:
        lines = [[*line, plus_minus(seconds.get(line[0], []), 1, 0)] for line in lines]
    return markdown(["", *tasks, *([SECONDS] if seconds else [])], lines)


def main(argv: list[str]) -> None:
    """Prints the table of the folder in `argv`."""
    if len(argv) != 2:
        sys.exit("use: python -m cvmae.report.summary OUT, with runs in OUT/NAME/SEED/TASK")
    print(table(argv[1]))


if __name__ == "__main__":
    main(sys.argv)
