"""Tables and cards of the report: a column for each run, a row for each metric, class or config field."""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cvmae.evaluation.pretraining_report import report_rows
from cvmae.report import summary
from cvmae.report.gather import Run
from cvmae.report.words import TASK_TITLES, anything, duration, field, is_fraction, meaning, moment, number
from cvmae.workdir import Report

PATCHES = {f"reconstruction/{name}_patch": f"baseline: {name} patch" for name in ("mean", "nearest")}
TITLES = {"reconstruction/model": ""} | PATCHES | {name: title for name, title, _ in report_rows()}  # in the order of the rows
TITLES |= {"retrieval/median_rank": "median rank of the same clip", "accuracy/top1": "top-1", "accuracy/top5": "top-5"}
TITLES |= {"accuracy/mean_class_accuracy": "mean class accuracy"}


class Cell(NamedTuple):
    """A cell: its text; a fraction in 0..1, drawn as a bar, or None; and a note in small print."""

    text: str
    fraction: float | None = None
    note: str = ""


EMPTY = Cell("–")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      title: its title.
      runs: the indices of its runs.
      rows: (name, a cell for each run).
      meanings: {name of a row: a sentence that explains it}, of the first of the rows that share a sentence.
    """

    title: str
    runs: list[int]
    rows: list[tuple[str, list[Cell]]]
    meanings: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Card:
    """The summary of a run: its task, a headline (name, value) or None, and facts (name, value)."""

    task: str
    headline: tuple[str, str] | None
    facts: list[tuple[str, str]]


def card(run: Run) -> Card:
    """Summarizes a run: task, encoder, data, progress, and its main result."""
    facts = [
        ("encoder", run.config.get("video_branch.variant")),
        ("data", run.config.get("data.mixture") or run.config.get("data.source")),
    ]
    steps = max((step for values in run.series.values() for step in values), default=None)
    if steps is not None:
        total = str(run.config.get("total", "")).removesuffix("_steps").replace("_", " ")
        facts.append(("steps", f"{number(steps)}" + (f" of {total}" if total else "")))
    seconds, speed = (list(_finite(run.series.get(f"time/{name}", {}))) for name in ("seconds", "clips_per_second"))
    facts += [("time", duration(seconds[-1]))] if seconds else []
    facts += [("speed", f"{number(float(np.median(speed)))} clips/s")] if speed else []
    facts += [("starts", number(len(run.starts)))] if len(run.starts) > 1 else []
    changed = dict.fromkeys(name for start in run.starts for name in _dict(start, "changed_fields"))
    facts += [("changed at a resume", ", ".join(changed))] if changed else []
    return Card(
        TASK_TITLES.get(run.task, run.task),
        headline(run.report),
        [(name, anything(value)) for name, value in facts if value is not None],
    )


def headline(report: Report | None) -> tuple[str, str] | None:
    """Returns (name, value) of the main result of a report, or None."""
    if report is None:
        return None
    metrics = report.metrics
    test = "20 nearest neighbors" if report.task == "knn" else "test top-1"
    if summary.accuracy_names(report)[1] in metrics:
        test = "20 nearest neighbors, mAP" if report.task == "knn" else "test mAP"
    candidates = [
        (test, summary.accuracy(report)),
        ("linear probe", metrics.get("probe/accuracy")),
        ("same clip, R@1", metrics.get("retrieval/same_clip_r1")),
        ("same class, R@1", metrics.get("same_class/r1")),
        ("same video, R@1", metrics.get("same_video/r1")),
    ]
    return next(((name, number(value, "accuracy")) for name, value in candidates if isinstance(value, float)), None)


def differences(runs: list[Run]) -> tuple[Table, Table] | None:
    """Compares configs: a table of fields whose values differ, and one of fields that only some runs have.

    Returns None for fewer than two runs with a config.
    """
    configs = [run.config for run in runs if run.config]
    if len(configs) < 2:
        return None
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [config[name] for config in configs if name in config] for name in names}
    differ = [name for name, known in values.items() if any(value != known[0] for value in known)]
    some = [name for name, known in values.items() if len(known) < len(configs) and name not in differ]
    return fields(runs, differ), fields(runs, some)


def fields(runs: list[Run], names: Iterable[str] | None = None) -> Table:
    """Makes a table of config fields (None: all) of every run that has a config."""
    known = [number for number, run in enumerate(runs) if run.config]
    names = dict.fromkeys(name for number in known for name in runs[number].config) if names is None else names

    def cell(number, name):
        return Cell(field(runs[number].config[name])) if name in runs[number].config else EMPTY

    return Table("", known, [(name, [cell(number, name) for number in known]) for name in names])


def results(runs: list[Run]) -> list[Table]:
    """Makes a table for each kind of report, with the runs that have one side by side."""
    groups: dict[str, dict[int, dict[str, Cell]]] = {}
    for run_number, run in enumerate(runs):
        if run.report is not None and run.report.metrics:
            groups.setdefault(report_title(run.report), {})[run_number] = report_cells(run.report)
    return [_table(title, columns) for title, columns in groups.items()]


def report_title(report: Report) -> str:
    """Returns the title of the table of a report."""
    if report.task == "pretrain":
        clips = "clips of which some were trained on" if "trained_on" in report.details else "held-out clips"
        return f"Pre-training, evaluated on {clips}"
    return "Test" if "views" in report.details else TASK_TITLES.get(report.task, report.task)


def report_cells(report: Report) -> dict[str, Cell]:
    """Returns {metric: cell} of a report; the notes are the values of the untrained encoder."""
    best = _dict(report.details, "best")
    titles = {"rate": "best head: learning rate", "weight_decay": "best head: weight decay"}
    details = {title: best[name] for name, title in titles.items() if best.get(name) is not None}
    details |= {
        name: report.details[name]
        for name in ("clips", "trained_on", "unlabeled", "unreadable", "views", "clips_together")
        if name in report.details
    }
    cells = {name: _cell(name, value, report.baseline.get(name)) for name, value in (report.metrics | details).items()}
    return {name: cells[name] for name in sorted(cells, key=_position)} if report.task == "pretrain" else cells


def classes(runs: list[Run]) -> Table | None:
    """Makes a table of every class; None without per_class.csv.

    A cell is the top-1 accuracy and the most frequent confusion, or where clips have several labels the average precision.
    """
    known = [number for number, run in enumerate(runs) if run.classes]
    if not known:
        return None
    columns = {number: {row["name"]: _class_cell(row) for row in runs[number].classes} for number in known}
    scores = {"top1": "Top-1", "average_precision": "Average precision"}
    shown = [title for name, title in scores.items() if any(name in runs[number].classes[0] for number in known)]
    return _table(" or ".join(shown), columns)


class Study(NamedTuple):
    """An ablation study: a row for each variant, a column for each measure, with the standard deviation over seeds as a note."""

    run: int
    measures: list[str]
    rows: list[tuple[str, list[Cell]]]


def studies(runs: list[Run]) -> list[Study]:
    """Makes the table of every study that has a finished run."""
    tables = []
    for run_number, run in enumerate(runs):
        names, measures = (list(dict.fromkeys(row[key] for row in run.study)) for key in ("variant", "measure"))
        cells = {(row["variant"], row["measure"]): _study_cell(row) for row in run.study}
        rows = [(name, [cells.get((name, measure), EMPTY) for measure in measures]) for name in names]
        tables += [Study(run_number, [TITLES.get(measure, measure) for measure in measures], rows)] if rows else []
    return tables


class Grid(NamedTuple):
    """The heads of a probe: a row per learning rate, a column per weight decay; cells (text, fraction, True for the best head).

    `score` is what the cells show, top-1 or mAP.
    """

    run: int
    decays: list[str]
    rows: list[tuple[str, list[tuple[str, float, bool]]]]
    score: str


def heads(runs: list[Run]) -> list[Grid]:
    """Makes a grid of top-1 (or mAP) of every head of every probe, on the clips that the best head was chosen by."""
    grids = []
    for run, workdir in enumerate(runs):
        details = workdir.report.details if workdir.report else {}
        listed = details.get("heads")
        entries = [head for head in listed if isinstance(head, dict)] if isinstance(listed, list) else []
        score = next((name for name in summary.ACCURACIES if any(name in head for head in entries)), "")
        values = {(head.get("rate"), head.get("weight_decay")): head.get(score) for head in entries}
        values = {pair: value for pair, value in values.items() if isinstance(value, float)}
        best = _dict(details, "best")
        rates, decays = (list(dict.fromkeys(pair[axis] for pair in values)) for axis in (0, 1))
        rows = [
            (anything(rate), [_head(values.get((rate, decay)), (rate, decay) == (best.get("rate"), best.get("weight_decay")))
                              for decay in decays])
            for rate in rates
        ]  # fmt: skip
        grids += [Grid(run, [anything(decay) for decay in decays], rows, TITLES.get(score, score))] if rows else []
    return grids


def environment(runs: list[Run]) -> Table | None:
    """Makes a table of the environment of the newest start of every run; None without environment.json."""
    columns = {}
    for run_number, run in enumerate(runs):
        if run.starts:
            start = run.starts[-1]
            values = {name: start.get(name) for name in ("time", "step", "commit", "python", "system", "devices", "processes")}
            values["time"] = moment(values["time"]) if values["time"] else None
            values |= _dict(start, "versions")
            columns[run_number] = {name: Cell(anything(value)) for name, value in values.items() if value not in (None, "")}
    return _table("", columns) if columns else None


def replaced(run: Run) -> str:
    """Returns the number of unreadable clips that were replaced by others, as text; '' for zero."""
    most = max(_finite(run.series.get("data/replaced_clips", {})), default=0)
    return number(most) if most else ""


def _table(title: str, columns: dict[int, dict[str, Cell]]) -> Table:
    """Makes a table of {index of a run: {name: cell}}."""
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    rows = [(TITLES.get(name, name), [cells.get(name, EMPTY) for cells in columns.values()]) for name in names]
    first = {meaning(name): TITLES.get(name, name) for name in reversed(names)}  # of the rows that a sentence explains
    return Table(title, list(columns), rows, {row: sentence for sentence, row in first.items() if sentence})


def _cell(name: str, value, before=None) -> Cell:
    fraction = float(value) if is_fraction(name) and isinstance(value, int | float) and 0 <= value <= 1 else None
    return Cell(anything(value, name), fraction, "" if before in (None, value) else f"untrained {anything(before, name)}")


def _class_cell(row: dict[str, str]) -> Cell:
    score, other = ("top1" if "top1" in row else "average_precision"), row.get("most_confused_with")
    try:
        value = float(row[score])
    except ValueError:  # a class without a clip
        return Cell("–", None, f"{row['clips']} clips")
    confused = f", most often confused with {other}" if other else ""
    return Cell(number(value, "top1"), value if 0 <= value <= 1 else None, f"{row['clips']} clips{confused}")


def _study_cell(row: dict[str, str]) -> Cell:
    try:
        mean, deviation = float(row["mean"]), float(row["deviation"] or "nan")
    except ValueError:  # the variant has no finished run
        return EMPTY
    cell = _cell(row["measure"], mean)
    spread = f"± {number(deviation, row['measure'])}, " if math.isfinite(deviation) else ""
    return cell._replace(note=f"{spread}{row['runs']} {'run' if row['runs'] == '1' else 'runs'}")


def _head(value, best: bool) -> tuple[str, float, bool]:
    return ("–", 0.0, False) if value is None else (number(value, "accuracy/top1"), min(max(value, 0.0), 1.0), best)


def _position(name: str) -> int:
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def _finite(values: dict[int, float]):
    return (value for value in values.values() if math.isfinite(value))


def _dict(tree: dict, name: str) -> dict:
    """Returns the object `name` of a parsed JSON object; {} without one."""
    return tree[name] if isinstance(tree.get(name), dict) else {}
