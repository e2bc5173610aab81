"""What a report shows of a workdir, read from the files that a run leaves there.

Files may be missing (a run that has not ended, another task) or damaged (a crash): what cannot be read becomes a note.
"""

import csv
import dataclasses
import json
import os
import pathlib

from cvmae.config import flatten
from cvmae.report.pictures import Picture, read_pictures
from cvmae.workdir import CONFIG, FIGURE_LIST, METRICS, PER_CLASS, PROVENANCE, REPORT, STUDY_TABLE, Report

MARKS = (CONFIG, METRICS, REPORT, FIGURE_LIST)  # a workdir has one of them or more


class NoWorkdirError(ValueError):
    """A folder that no run wrote; the message names it and says what to give."""


@dataclasses.dataclass
class Run:
    """A run as its workdir tells of it.

    label: short, no two alike in a report.
    config: fields by dotted name.
    series: of every metric its values by step; a value may be NaN.
    report: report.json.
    classes: rows of per_class.csv.
    study: rows of table.csv, which a study of ablations leaves.
    bad: (path, reason) of files that could not be read.
    starts: of environment.json, the oldest first.
    notes: what is missing or damaged, for people.
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


def gather(paths) -> list[Run]:
    """Reads workdirs, each once, in the order given.

    Raises:
      NoWorkdirError: a folder that is not there, or that no run wrote.
    """
    folders = list(dict.fromkeys(pathlib.Path(os.path.abspath(path)) for path in paths))
    for folder in folders:
        check_workdir(folder)
    return [read_workdir(folder, label_of(folder, folders)) for folder in folders]


def check_workdir(folder: pathlib.Path) -> None:
    """Raises NoWorkdirError where no run wrote a folder; names the runs below it, if there are."""
    if not folder.is_dir():
        raise NoWorkdirError(f"{folder} is {'no folder' if folder.exists() else 'not there'}: give the --workdir of a run")
    if not any((folder / mark).is_file() for mark in MARKS):
        below = sorted({path.parent.name for path in folder.glob("*/config.json")})
        hint = f"; it holds runs, give those: {' '.join(below[:8])}{' ...' if below[8:] else ''}" if below else ""
        raise NoWorkdirError(f"{folder} is no workdir, it holds none of {', '.join(MARKS)}: give the --workdir of a run{hint}")


def label_of(folder: pathlib.Path, folders: list[pathlib.Path]) -> str:
    """As few of the last parts of a path as no other of the folders ends in."""
    for count in range(1, len(folder.parts)):
        last = folder.parts[-count:]
        if not any(other.parts[-count:] == last for other in folders if other != folder):
            return "/".join(last)
    return str(folder)


def read_workdir(folder: pathlib.Path, label: str) -> Run:
    """Reads everything of a workdir that a report shows."""
    run = Run(label, str(folder))
    run.config = flatten(_json(run, folder / CONFIG))
    run.pictures = read_pictures(folder, run.notes)
    run.study = _csv(run, folder / STUDY_TABLE, ("variant", "measure", "runs", "mean", "deviation"))
    if run.config.get("task") == "ablate":  # a study trains in the folders of its runs, which have all else
        return run
    run.series = read_series(run, folder / METRICS)
    run.report = read_report(run, folder / REPORT)
    run.classes = _csv(run, folder / PER_CLASS, ("name", "clips", "top1", "most_confused_with"))
    run.bad = read_bad_files(run, folder)
    starts = _json(run, folder / PROVENANCE).get("starts", [])
    run.starts = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    return run


def read_report(run: Run, path: pathlib.Path) -> Report | None:
    """Returns the numbers of a finished run; None and a note where there are none, or the file is damaged."""
    value = _json(run, path, "the run has not ended, or makes none")
    if not value:
        return None
    try:
        return Report.of_json(value, str(run.config.get("task", "")))
    except ValueError as error:
        run.notes.append(f"{path.name} cannot be read: {error}")
        return None


def read_series(run: Run, path: pathlib.Path) -> dict[str, dict[int, float]]:
    """Every number of metrics.jsonl by name and step; of a step that is there twice the later. Broken lines become a note."""
    found, broken = {}, 0
    if not path.is_file():
        run.notes.append(f"no {path.name}: nothing was logged")
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            step = values.pop("step")
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and isinstance(step, int):
                found.setdefault(name, {})[step] = float(value)
    if broken:
        run.notes.append(f"{path.name}: {broken} broken {'line is' if broken == 1 else 'lines are'} left out")
    return {name: dict(sorted(values.items())) for name, values in found.items()}


def read_bad_files(run: Run, folder: pathlib.Path) -> list[tuple[str, str]]:
    """(path, reason) out of every list of unreadable files in a workdir."""
    lists = [*folder.glob("bad*_files.csv"), *folder.glob("features/bad_files.csv"), *folder.glob("features/*/bad_files.csv")]
    return [(row["path"], row["reason"]) for path in sorted(lists) for row in _csv(run, path, ("path", "reason"))]


def _json(run: Run, path: pathlib.Path, without: str = "") -> dict:
    """The object in a JSON file; {} and a note where there is none. `without`: what it means that the file is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        run.notes.append(f"{path.name}: expected an object, not {type(found).__name__}")
    except FileNotFoundError:
        run.notes.append(f"no {path.name}" + (f": {without}" if without else ""))
    except ValueError as error:  # UnicodeDecodeError too
        run.notes.append(f"{path.name} cannot be read: {error}")
    return {}


def _csv(run: Run, path: pathlib.Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns; none where there is no file, and a note where it is another."""
    if not path.is_file():
        return []
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
    except csv.Error as error:
        run.notes.append(f"{path.name} cannot be read: {error}")
        return []
    if rows and not set(columns) <= rows[0].keys():
        run.notes.append(f"{path.name}: expected the columns {', '.join(columns)}")
        return []
    return [{name: row[name] or "" for name in columns} for row in rows]
