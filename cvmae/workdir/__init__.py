"""A run's folder: the names of its files, and the one schema of `report.json` that every task writes and every reader reads."""

import contextlib
import dataclasses
import errno
import json
import os
import re
from typing import Any

from cvmae.config import ConfigError, require
from cvmae.files import REMEDIES, lost_link, write_json
from cvmae.parallel import processes
from cvmae.storage.client import WRITABLE, check_scheme, raise_of_store, reason_of_store, scheme_of
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath

CONFIG = "config.json"
METRICS = "metrics.jsonl"
REPORT = "report.json"
PROVENANCE = "environment.json"
PREDICTIONS = "predictions.npz"
PER_CLASS = "per_class.csv"
STUDY_TABLE = "table.csv"
BAD_FILES = "bad_files.csv"
BAD_EVAL_FILES = "bad_eval_files.csv"
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
TRACKERS = "trackers.json"

_MOVE = "bring back the one that the run wrote, or move it away, or give another --workdir"
PROBES = ("linear", "attentive")  # tasks that train a classifier on a frozen encoder
FROZEN_TASKS = ("knn", "retrieval", "extract", "visualize")  # whose old report.json held their name and nothing else


@dataclasses.dataclass(frozen=True)
class Report:
    """The numbers of a finished run.

    Attributes:
      task: the value of config.task that made it.
      metrics: the task's numbers by name; accuracies are fractions in 0..1.
      baseline: the same numbers of the untrained encoder, where they were measured.
      details: whatever else belongs to them: how many videos, which head of a probe was best.
      step: of the state that they are of; None for a task that trains nothing, and in files of before version 0.2.
    """

    task: str
    metrics: dict[str, float]
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None

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
        if not isinstance(report.step, int | None):
            raise ValueError(f"step is to be a whole number, not {type(report.step).__name__}")
        return report


def check_path(path: str | os.PathLike | RemotePath) -> None:
    """Raises ConfigError where a path can be no folder here, or has a scheme that nothing can be written to, such as hdfs://, or a mistyped gs:/."""
    text = str(path)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    scheme = scheme_of(text)
    require(
        match is None or scheme in WRITABLE,
        f"--workdir={path} is no folder of this machine, and {match and match[1]}: is not supported: give a folder, or a path that "
        f"begins with {' or '.join(f'{name}://' for name in WRITABLE)}",
    )
    check_scheme(text)
    if scheme == "gs":
        _check_bucket_name(text)
    if scheme:
        return
    try:
        lost = lost_link(text)
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):  # `Workdir.create` says what it is
        require(not lost, f"--workdir={path} cannot be a folder: {lost}")
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _no_folder(path, error) from error


def _check_bucket_name(path: str) -> None:
    """Raises ConfigError where TensorStore, which writes the checkpoints, takes no bucket of this name."""
    import tensorstore

    bucket = path.partition("://")[2].partition("/")[0]
    try:
        tensorstore.KvStore.Spec({"driver": "gcs", "bucket": bucket})
    except ValueError as error:
        raise ConfigError(
            f"--workdir={path}: {bucket!r} is no name of a bucket of GCS, which has 3 to 63 characters (with dots 222), a to z, 0 to 9, "
            "- _ and ., and begins and ends with a letter or digit: give gs://BUCKET/PATH"
        ) from error


def _no_folder(path: str | os.PathLike | RemotePath, error: Exception) -> ConfigError:
    if reason := reason_of_store(error):
        return ConfigError(f"--workdir={path}: {reason}")
    number = getattr(error, "errno", None)
    remedy = REMEDIES[number] if number in (errno.ENAMETOOLONG, errno.ELOOP) else "give another"
    return ConfigError(f"--workdir={path} cannot be a folder ({getattr(error, 'strerror', None) or error}): {remedy}")


class Workdir:
    """The folder of one run, on a disk or in a bucket. Of several processes the main one writes; all may read."""

    def __init__(self, path: str | os.PathLike | RemotePath):
        self.path = as_path(path)

    @classmethod
    def create(cls, path: str | os.PathLike) -> "Workdir":
        """Creates the folder if it is missing. Raises: ConfigError, it cannot be created."""
        check_path(path)
        workdir = cls(path)
        try:
            workdir.path.mkdir(parents=True, exist_ok=True)
            if isinstance(workdir.path, RemotePath):
                with contextlib.suppress(PermissionError):  # a bucket may allow its objects and say nothing of itself
                    workdir.path.check_bucket()
        except OSError as error:
            raise _no_folder(path, error) from error
        return workdir

    def __truediv__(self, name: str) -> AnyPath:
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
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            require(not lost_link(path), lost_link(path))
            return None
        except OSError as error:
            raise_of_store(error)
            raise ConfigError(f"{path} cannot be read ({error.strerror}): bring it back, or give another --workdir") from error
        except (ValueError, RecursionError) as error:
            raise_of_store(error)
            raise ConfigError(f"{path} is not JSON ({error}): {_MOVE}") from error
        require(isinstance(config, dict), f"{path} is not the config of a run: {_MOVE}")
        return config

    def read_trackers(self) -> dict[str, dict]:
        """Returns the notes that trackers keep in the folder, by their name; {} where nothing can be read."""
        try:
            return dict(json.loads((self / TRACKERS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise_of_store(error)
            return {}

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
        try:
            return Report.of_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise_of_store(error)
            raise ValueError(f"{path} cannot be read: {error}") from error

    def read_starts(self) -> list[dict] | None:
        """The starts of the run that `training.provenance` recorded, the oldest first; [] without a file, None where it is damaged."""
        try:
            starts = json.loads((self / PROVENANCE).read_text(encoding="utf-8"))["starts"]
        except FileNotFoundError:
            return []
        except (IsADirectoryError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise_of_store(error)
            return None
        return starts if isinstance(starts, list) and all(isinstance(start, dict) for start in starts) else None
