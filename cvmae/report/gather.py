"""Reader of workdirs for the report.

Files may be missing (an unfinished run, another task) or damaged (a crash); each such problem becomes a note in the report.
"""

import csv
import dataclasses
import json
import os
import pathlib
import tempfile

from cvmae.config import flatten
from cvmae.report.pictures import Picture, read_pictures
from cvmae.storage.path import AnyPath, as_path, is_remote
from cvmae.storage.remote_path import RemotePath
from cvmae.workdir import CONFIG, FIGURE_LIST, METRICS, PER_CLASS, PROVENANCE, REPORT, STUDY_TABLE, Report
from cvmae.workdir.metric_lines import copy_small_files

MARKS = (CONFIG, METRICS, REPORT, FIGURE_LIST)  # a workdir has at least one of them


class NoWorkdirError(ValueError):
    """Error for a folder that is not a workdir; the message names it and a fix."""


@dataclasses.dataclass
class Run:
    """The contents of a workdir.

    Attributes:
      label: a short name, unique within a report.
      path: the absolute path of the workdir.
      config: {dotted field: value}.
      series: {metric: {step: value}}; values may be NaN or infinite.
      report: the contents of report.json; None without one.
      classes: rows of per_class.csv.
      study: rows of table.csv of an ablation study.
      bad: (path, reason) of unreadable files.
      pictures: the figures.
      starts: entries of environment.json, oldest first.
      notes: missing and damaged files, for people.
    """

    label: str
    path: str
    config: dict = dataclasses.field(default_factory=dict)
    series: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    report: Report | None = None
    classes: list[dict[str, str]] = dataclasses.field(default_factory=list)
    study: list[dict[str, str]] = dataclasses.field(default_factory=list)
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    pictures: list[Picture] = dataclasses.field(default_factory=list)
    starts: list[dict] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def task(self) -> str:
        """The value of config.task; empty if unknown."""
        # Configs of the first versions had no field `task`; they were all of pre-training.
        return str(self.config.get("task", "pretrain" if "loss.mse_video" in self.config else ""))


def gather(paths) -> list[Run]:
    """Reads workdirs, each once, in the order given.

    Raises:
      NoWorkdirError: a folder does not exist or is not a workdir.
    """
    folders = list(
        dict.fromkeys(as_path(path) if is_remote(str(path)) else pathlib.Path(os.path.abspath(path)) for path in paths)
    )
    for folder in folders:
        check_workdir(folder)
    return [_read(folder, label_of(folder, folders)) for folder in folders]


def _read(folder: AnyPath, label: str) -> Run:
    """Reads a workdir, one in a bucket from a copy of its small files."""
    if not isinstance(folder, RemotePath):
        return read_workdir(folder, label)
    with tempfile.TemporaryDirectory(prefix="cvmae-") as copy:
        copy_small_files(folder, pathlib.Path(copy))
        run = read_workdir(pathlib.Path(copy), label)
    run.path = str(folder)
    return run


def check_workdir(folder: AnyPath) -> None:
    """Raises NoWorkdirError if a folder is not a workdir; the message names the workdirs in it."""
    if not folder.is_dir():
        raise NoWorkdirError(
            f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: give the --workdir of a run"
        )
    if not any((folder / mark).is_file() for mark in MARKS):
        below = sorted({path.parent.name for path in folder.glob("*/config.json")})
        hint = f"; it contains workdirs, give those: {' '.join(below[:8])}{' ...' if below[8:] else ''}" if below else ""
        raise NoWorkdirError(
            f"{folder} is not a workdir, it has none of the files {', '.join(MARKS)}: give the --workdir of a run{hint}"
        )


def label_of(folder: AnyPath, folders: list) -> str:
    """Returns the shortest end of a path that no other of the folders shares."""
    for count in range(1, len(folder.parts)):
        last = folder.parts[-count:]
        if not any(other.parts[-count:] == last for other in folders if other != folder):
            return "/".join(last)
    return str(folder)


def read_workdir(folder: pathlib.Path, label: str) -> Run:
    """Reads a workdir."""
    run = Run(label, str(folder))
    run.config = flatten(_json(run, folder / CONFIG))
    run.pictures = read_pictures(folder, run.notes)
    run.study = _csv(run, folder / STUDY_TABLE, ("variant", "measure", "runs", "mean", "deviation"))
    if run.config.get("task") == "ablate":  # the runs of a study have workdirs of their own, with the other files
        return run
    run.series = read_series(run, folder / METRICS)
    run.report = read_report(run, folder / REPORT)
    run.classes = _csv(
        run, folder / PER_CLASS, ("name", "clips", "top1", "most_confused_with"), ("name", "clips", "average_precision")
    )
    run.bad = read_bad_files(run, folder)
    starts = _json(run, folder / PROVENANCE).get("starts", [])
    run.starts = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    return run


def read_report(run: Run, path: pathlib.Path) -> Report | None:
    """Reads the numbers of a finished run; adds a note and returns None if the file is missing or damaged."""
    value = _json(run, path, "the run has not finished, or its task writes none")
    if not value:
        return None
    try:
        return Report.of_json(value, str(run.config.get("task", "")))
    except ValueError as error:
        run.notes.append(f"{path.name} cannot be read: {error}")
        return None


def read_series(run: Run, path: pathlib.Path) -> dict[str, dict[int, float]]:
    """Reads metrics.jsonl as {metric: {step: value}}.

    A step that was logged twice, before and after an interruption, has its later values. Broken lines become a note.
    """
    series: dict[str, dict[int, float]] = {}
    broken = 0
    if not path.is_file():
        run.notes.append(f"no {path.name}: nothing was logged")
        return series
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and isinstance(step, int):
                series.setdefault(name, {})[step] = float(value)
    if broken:
        run.notes.append(f"{path.name}: {broken} broken {'line is' if broken == 1 else 'lines are'} left out")
    return {name: dict(sorted(values.items())) for name, values in series.items()}


def read_bad_files(run: Run, folder: pathlib.Path) -> list[tuple[str, str]]:
    """Reads (path, reason) from every list of unreadable files in a workdir."""
    lists = [*folder.glob("bad*_files.csv"), *folder.glob("features/bad_files.csv"), *folder.glob("features/*/bad_files.csv")]
    return [(row["path"], row["reason"]) for path in sorted(lists) for row in _csv(run, path, ("path", "reason"))]


def _json(run: Run, path: pathlib.Path, without: str = "") -> dict:
    """Reads an object from a JSON file; adds a note and returns {} on failure. `without` explains a missing file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        run.notes.append(f"{path.name}: expected an object, not {type(value).__name__}")
    except FileNotFoundError:
        run.notes.append(f"no {path.name}" + (f": {without}" if without else ""))
    except ValueError as error:  # includes UnicodeDecodeError
        run.notes.append(f"{path.name} cannot be read: {error}")
    return {}


def _csv(run: Run, path: pathlib.Path, columns: tuple[str, ...], other: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Reads these columns of a CSV file; returns [] without a file, and adds a note if a column is missing.

    A file without them, but with all `other` columns, is read by those.
    """
    if not path.is_file():
        return []
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
    except csv.Error as error:
        run.notes.append(f"{path.name} cannot be read: {error}")
        return []
    if rows and other and set(other) <= rows[0].keys():
        columns = other
    if rows and not set(columns) <= rows[0].keys():
        run.notes.append(f"{path.name}: expected the columns {', '.join(columns)}")
        return []
    return [{name: row[name] or "" for name in columns} for row in rows]
