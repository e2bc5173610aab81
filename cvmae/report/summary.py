"""Command: a table of the accuracies of many runs, `python -m cvmae.report.summary OUT`, with runs in OUT/NAME/SEED/TASK.

A row is a NAME, a column a TASK; a cell is the mean ± standard deviation over SEEDs of the run's accuracy, in %: top-1, or mAP where
clips have several labels.
"""

import pathlib
import sys

import numpy as np

from cvmae.workdir import REPORT, Report, Workdir

ACCURACIES = ("accuracy/top1", "mAP")  # of a test: with one label a clip, and with several
NEIGHBORS = ("top1/k=20", "mAP/k=20")  # the same of kNN


def accuracy(report: Report) -> float | None:
    """Returns the accuracy (0..1) of a report: test top-1 or mAP, or that of kNN with 20 neighbors; None without one."""
    return next((report.metrics[name] for name in accuracy_names(report) if name in report.metrics), None)


def accuracy_names(report: Report) -> tuple[str, ...]:
    """Returns the names of the metric that `accuracy` takes, with one label a clip and with several."""
    return NEIGHBORS if report.task == "knn" else ACCURACIES


def collect(folder) -> dict[str, dict[str, list[float]]]:
    """Returns {name: {task: accuracies of the seeds}} of the finished runs below a folder."""
    rows: dict[str, dict[str, list[float]]] = {}
    for path in sorted(pathlib.Path(folder).glob(f"*/*/*/{REPORT}")):
        name, _, task = path.parts[-4:-1]
        report = Workdir(path.parent).read_report()
        value = None if report is None else accuracy(report)
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
    if not values:
        return ""
    scale, digits = (100, 1) if is_fraction else (1, 3)
    mean, deviation = mean_deviation(values)
    return f"{scale * mean:.{digits}f}" + ("" if deviation is None else f" ± {scale * deviation:.{digits}f}")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Formats a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def table(folder) -> str:
    """Formats the accuracies of all runs below a folder as a Markdown table."""
    rows = collect(folder)
    tasks = sorted({task for row in rows.values() for task in row})
    return markdown(["", *tasks], [[name, *(cell(row.get(task, [])) for task in tasks)] for name, row in rows.items()])


def main(argv: list[str]) -> None:
    """Prints the table of the folder in `argv`."""
    if len(argv) != 2:
        sys.exit("use: python -m cvmae.report.summary OUT, with runs in OUT/NAME/SEED/TASK")
    print(table(argv[1]))


if __name__ == "__main__":
    main(sys.argv)
