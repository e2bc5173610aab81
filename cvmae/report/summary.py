"""What many runs reached, as a table: `python -m cvmae.report.summary OUT`, with runs in OUT/NAME/SEED/TASK.

A row is a NAME, a column a TASK, a cell the mean ± standard deviation over SEEDs of the run's accuracy, in %.
"""

import collections
import pathlib
import sys

import numpy as np

from cvmae.workdir import REPORT, Report, Workdir

NEIGHBORS = "top1/k=20"


def accuracy(report: Report) -> float | None:
    """Returns the one number (0..1) of a report that a table shows: test top-1, or kNN's with 20 neighbors; None without one."""
    return report.metrics.get(NEIGHBORS if report.task == "knn" else "accuracy/top1")


def collect(folder) -> dict[str, dict[str, list[float]]]:
    """Returns {name: {task: accuracies of the seeds}} of the finished runs below a folder."""
    rows = collections.defaultdict(lambda: collections.defaultdict(list))
    for path in sorted(pathlib.Path(folder).glob(f"*/*/*/{REPORT}")):
        name, _, task = path.parts[-4:-1]
        value = accuracy(Workdir(path.parent).read_report())
        if value is not None:
            rows[name][task].append(value)
    return rows


def mean_deviation(values: list[float]) -> tuple[float, float | None]:
    """The mean of one value or more, and the deviation of a sample, None for one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def cell(values: list[float], share: bool = True) -> str:
    """`62.1 ± 3.4` of shares in %, `0.621 ± 0.034` of other numbers; without deviation for one value, empty for none."""
    if not values:
        return ""
    scale, digits = (100, 1) if share else (1, 3)
    mean, deviation = mean_deviation(values)
    return f"{scale * mean:.{digits}f}" + ("" if deviation is None else f" ± {scale * deviation:.{digits}f}")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def table(folder) -> str:
    """The Markdown table of all runs below a folder."""
    found = collect(folder)
    tasks = sorted({task for row in found.values() for task in row})
    return markdown(["", *tasks], [[name, *(cell(row.get(task, [])) for task in tasks)] for name, row in found.items()])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("use: python -m cvmae.report.summary OUT, with runs in OUT/NAME/SEED/TASK")
    print(table(sys.argv[1]))
