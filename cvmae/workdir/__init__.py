"""A run's folder: the names of its files, and the one schema of `report.json` that every task writes and every reader reads."""

import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from cvmae.config import ConfigError, require
from cvmae.files import write_json
from cvmae.parallel import processes

CONFIG = "config.json"
METRICS = "metrics.jsonl"
REPORT = "report.json"
PROVENANCE = "environment.json"
PREDICTIONS = "predictions.npz"
PER_CLASS = "per_class.csv"
STUDY_TABLE = "table.csv"
BAD_FILES = "bad_files.csv"
BAD_TEST_FILES = "bad_test_files.csv"
CURVES = "curves.png"
RECONSTRUCTION = "reconstruction.png"
CONFUSION = "confusion.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FEATURES = "features"
FIGURES = "figures"
FIGURE_LIST = "figures/figures.json"
PAGE = "report.html"
PROFILE = "profile"

FROZEN_TASKS = ("knn", "retrieval", "extract", "visualize")  # whose old report.json held their name and nothing else


@dataclasses.dataclass(frozen=True)
class Report:
    """The numbers of a finished run.

    Attributes:
      task: the value of config.task that made it.
      metrics: the task's numbers by name; accuracies are fractions in 0..1.
      baseline: the same numbers of the untrained encoder, where they were measured.
      details: whatever else belongs to them: how many videos, which head of a probe was best.
    """

    task: str
    metrics: dict[str, float]
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_json(cls, value: dict, task: str = "") -> "Report":
        """Reads what `report.json` holds, in the present schema or one of the three before version 0.2.

        Args:
          value: the parsed file.
          task: config.task, for old files of classifiers, which do not name it.

        Raises:
          ValueError: neither schema.
        """
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, not {type(value).__name__}")
        if "metrics" in value:
            names = [field.name for field in dataclasses.fields(cls)]
            report = cls(**({"task": task} | {name: value[name] for name in names if name in value}))
        elif "trained" in value:
            report = cls("pretrain", value["trained"], value.get("untrained") or {})
        elif "test" in value:
            report = cls(task or "finetune", value["test"], details={k: v for k, v in value.items() if k != "test"})
        else:
            name = next((name for name in FROZEN_TASKS if name in value), None)
            if name is None:
                raise ValueError("it holds neither metrics nor a report of an earlier version")
            report = cls(name, value[name])
        for name in ("metrics", "baseline", "details"):
            if not isinstance(getattr(report, name), dict):
                raise ValueError(f"{name} is to be an object, not {type(getattr(report, name)).__name__}")
        return report


def check_path(path: str | os.PathLike) -> None:
    """Raises ConfigError where a path has a scheme, such as gs://, which would become a folder of that name here."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", os.fspath(path))
    require(
        match is None,
        f"--workdir={path} is no folder of this machine, and {match and match[1]}: is not supported: give a folder; a bucket can be "
        "mounted as one",
    )


class Workdir:
    """The folder of one run. Of several processes the main one writes; all may read."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike) -> "Workdir":
        """Creates the folder if it is missing. Raises: ConfigError, it cannot be created."""
        check_path(path)
        workdir = cls(path)
        try:
            workdir.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--workdir={path} cannot be a folder ({error.strerror}): give another") from error
        return workdir

    def __truediv__(self, name: str) -> pathlib.Path:
        """The path of a file in the folder."""
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def write_config(self, config) -> None:
        """Writes the resolved config."""
        if processes.is_main_process():
            write_json(self / CONFIG, json.loads(config.to_json_best_effort()))

    def read_config(self) -> dict | None:
        """The config as nested dicts; None where the folder has none. Raises: ConfigError."""
        path = self / CONFIG
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not JSON ({error}): delete it, or give another --workdir") from error

    def write_report(self, report: Report) -> None:
        """Writes the numbers of a finished run."""
        if processes.is_main_process():
            write_json(self / REPORT, dataclasses.asdict(report))

    def read_report(self) -> Report | None:
        """The numbers of a finished run, also of one that an earlier version made; None before the run has ended.

        Raises:
          ValueError: the file is damaged.
        """
        path = self / REPORT
        if not path.exists():
            return None
        try:
            return Report.of_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
