"""The table of many runs: which number of a report it shows, and mean ± deviation over seeds."""

import subprocess
import sys

import numpy as np
import pytest

from cvmae.report.summary import accuracy, cell, table
from cvmae.workdir import Report, Workdir
from tests.commands import ROOT


def write(folder, name, seed, task, report):
    Workdir.create(folder / name / str(seed) / task).write_report(report)


def test_a_cell_is_mean_and_deviation_over_seeds(tmp_path):
    for seed, value in enumerate((0.5, 0.6, 0.85)):
        write(tmp_path, "mae", seed, "linear", Report("linear", {"accuracy/top1": value}))
    write(tmp_path, "mae", 0, "knn", Report("knn", {"top1/k=10": 0.1, "top1/k=20": 0.25}))
    write(tmp_path, "full", 0, "linear", Report("linear", {"accuracy/top1": 0.875}))
    write(tmp_path, "full", 0, "pretrain", Report("pretrain", {}))
    deviation = np.std([50, 60, 85], ddof=1)
    assert table(tmp_path).splitlines() == [
        "|  | knn | linear |",
        "| --- | --- | --- |",
        "| full |  | 87.5 |",
        f"| mae | 25.0 | 65.0 ± {deviation:.1f} |",
    ]


@pytest.mark.parametrize(
    "report, value",
    [
        (Report("finetune", {}), None),
        (Report("pretrain", {"a": 1.0}), None),
        (Report("linear", {"accuracy/top1": 0.5}), 0.5),
        (Report("attentive", {"mAP": 0.25}), 0.25),
        (Report("knn", {"mAP/k=10": 0.5, "mAP/k=20": 0.75}), 0.75),
    ],
)
def test_the_number_of_a_report(report, value):
    assert accuracy(report) == value


def test_the_command_prints_the_table(tmp_path):
    write(tmp_path, "mae", 0, "linear", Report("linear", {"accuracy/top1": 0.5}))
    command = [sys.executable, "-m", "cvmae.report.summary", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "| mae | 50.0 |"


def test_nothing_is_an_empty_cell():
    assert cell([]) == ""
