"""The table of many runs: which number of a report it shows, and mean ± deviation over seeds."""

import json
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


def write_pretraining(folder, name, seed, seconds, total="40_steps", task="pretrain"):
    """Writes what a run without a report leaves: its config, and a metrics.jsonl that logs every 10 steps until the last seconds."""
    workdir = Workdir.create(folder / name / str(seed) / "pretrain")
    (workdir / "config.json").write_text(json.dumps({"task": task, "total": total}))
    lines = [{"step": 10 * (i + 1), "loss": 0.5, "time/seconds": value} for i, value in enumerate(seconds)]
    lines.append({"step": 10 * len(seconds), "eval/loss": 0.5})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4')


def test_a_table_of_tasks_of_several_label_sets_with_seconds_and_missing_cells(tmp_path):
    for seed in range(3):
        write_pretraining(tmp_path, "full-frozen", seed, [9.0, 20.0, 30.0, 100.0 + 10 * seed])
        write(tmp_path, "full-frozen", seed, "attentive-task", Report("attentive", {"accuracy/top1": 0.3 + 0.1 * seed}))
    write(tmp_path, "full-frozen", 1, "retrieval-task", Report("retrieval", {"same_video/r1": 0.9, "same_class/r1": 0.25}))
    write_pretraining(tmp_path, "stage0", 0, [1.0, 2.0, 3.0, 71.6])
    write_pretraining(tmp_path, "mae", 0, [1.0, 2.0])  # half of its steps
    write_pretraining(tmp_path, "mae", 1, [1.0, 64.0], total="3_epochs")
    write_pretraining(tmp_path, "mae", 2, [1.0, 2.0, 3.0, 4.0], task="linear")
    write(tmp_path, "untrained", 0, "finetune-all", Report("finetune", {"accuracy/top1": 0.625}))
    assert table(tmp_path).splitlines() == [
        "|  | attentive-task | finetune-all | retrieval-task | pretrain (s) |",
        "| --- | --- | --- | --- | --- |",
        f"| full-frozen | 40.0 ± {np.std([30, 40, 50], ddof=1):.1f} |  | 25.0 | 110 ± {np.std([100, 110, 120], ddof=1):.0f} |",
        "| mae |  |  |  | 64 |",
        "| stage0 |  |  |  | 72 |",
        "| untrained |  | 62.5 |  |  |",
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
