"""What a report says in tables: a column for each run, a row for each thing, of several runs or of one."""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cvmae.evaluation.heldout import report_rows
from cvmae.report import summary
from cvmae.report.gather import Run
from cvmae.report.words import anything, duration, field, is_share, moment, number
from cvmae.workdir import Report

TASK_TITLES = {
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "linear": "Linear probe",
    "attentive": "Attentive probe",
    "knn": "Nearest neighbors",
    "retrieval": "Retrieval",
    "extract": "Features",
    "visualize": "Pictures",
    "ablate": "Ablations",
}
PATCHES = {f"reconstruction/{name}_patch": f"baseline: {name} patch" for name in ("mean", "nearest")}
TITLES = {"reconstruction/model": ""} | PATCHES | {name: title for name, title, _ in report_rows()}  # in the order of the rows
TITLES |= {"retrieval/median_rank": "median rank of the same clip", "accuracy/top1": "top-1", "accuracy/top5": "top-5"}
TITLES |= {"accuracy/mean_class_accuracy": "mean over classes"}


class Cell(NamedTuple):
    """text; share: 0 to 1, drawn as a bar behind it, or None; note: what is said beside it, smaller."""

    text: str
    share: float | None = None
    note: str = ""


EMPTY = Cell("–")


@dataclasses.dataclass(frozen=True)
class Table:
    """rows: (name, a cell for each of `runs`, which are numbers of runs)."""

    title: str
    runs: list[int]
    rows: list[tuple[str, list[Cell]]]


@dataclasses.dataclass(frozen=True)
class Card:
    """A run in short. headline: (what, value), or None; facts: (what, value)."""

    task: str
    headline: tuple[str, str] | None
    facts: list[tuple[str, str]]


def card(run: Run) -> Card:
    """What a run is, how far it came and what it reached."""
    task = str(run.config.get("task", "pretrain" if "loss.mse_video" in run.config else ""))
    facts = [("encoder", run.config.get("video_branch.variant")), ("data", run.config.get("data.source"))]
    steps = max((step for values in run.series.values() for step in values), default=None)
    if steps is not None:
        total = str(run.config.get("total", "")).removesuffix("_steps").replace("_", " ")
        facts.append(("steps", f"{number(steps)}" + (f" of {total}" if total else "")))
    seconds, speed = (list(_finite(run.series.get(f"time/{name}", {}))) for name in ("seconds", "clips_per_second"))
    facts += [("time", duration(seconds[-1]))] if seconds else []
    facts += [("speed", f"{np.median(speed):.4g} clips/s")] if speed else []
    facts += [("starts", number(len(run.starts)))] if len(run.starts) > 1 else []
    return Card(
        TASK_TITLES.get(task, task), headline(run.report), [(name, anything(value)) for name, value in facts if value is not None]
    )


def headline(report: Report | None) -> tuple[str, str] | None:
    """Returns (name, value) of the one number of a report that says most, or None."""
    if report is None:
        return None
    metrics = report.metrics
    candidates = [
        ("20 nearest neighbors" if report.task == "knn" else "test top-1", summary.accuracy(report)),
        ("linear probe", metrics.get("probe/accuracy")),
        ("same clip, R@1", metrics.get("retrieval/same_clip_r1")),
        ("same class, R@1", metrics.get("same_class/r1")),
        ("same video, R@1", metrics.get("same_video/r1")),
    ]
    return next(((name, number(value, "accuracy")) for name, value in candidates if isinstance(value, float)), None)


def differences(runs: list[Run]) -> tuple[Table, Table] | None:
    """The config fields in which runs that have them differ, and those that only some have; None where only one has any."""
    configs = [run.config for run in runs if run.config]
    if len(configs) < 2:
        return None
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [config[name] for config in configs if name in config] for name in names}
    differ = [name for name, found in values.items() if any(value != found[0] for value in found)]
    some = [name for name, found in values.items() if len(found) < len(configs) and name not in differ]
    return fields(runs, differ), fields(runs, some)


def fields(runs: list[Run], names: Iterable[str] | None = None) -> Table:
    """These config fields, or all, of every run that has a config."""
    known = [number for number, run in enumerate(runs) if run.config]
    names = dict.fromkeys(name for number in known for name in runs[number].config) if names is None else names

    def cell(number, name):
        return Cell(field(runs[number].config[name])) if name in runs[number].config else EMPTY

    return Table("", known, [(name, [cell(number, name) for number in known]) for name in names])


def results(runs: list[Run]) -> list[Table]:
    """Returns the reports of all runs, those of the same kind side by side."""
    groups: dict[str, dict[int, dict[str, Cell]]] = {}
    for number_, run in enumerate(runs):
        if run.report is not None and run.report.metrics:
            groups.setdefault(report_title(run.report), {})[number_] = report_cells(run.report)
    return [_table(title, columns) for title, columns in groups.items()]


def report_title(report: Report) -> str:
    """Returns the title of the table that a report stands in."""
    if report.task == "pretrain":
        return "What pre-training taught, on clips not trained on"
    return "Test" if "views" in report.details else TASK_TITLES.get(report.task, report.task)


def report_cells(report: Report) -> dict[str, Cell]:
    """Returns the numbers of a report as cells by name, with the untrained encoder's beside them as notes."""
    best = _dict(report.details, "best")
    details = {f"best head: {name}": best[name] for name in ("rate", "weight_decay") if best.get(name) is not None}
    details |= {name: report.details[name] for name in ("clips", "unreadable", "views") if name in report.details}
    cells = {name: _cell(name, value, report.baseline.get(name)) for name, value in (report.metrics | details).items()}
    return {name: cells[name] for name in sorted(cells, key=_place)} if report.task == "pretrain" else cells


def classes(runs: list[Run]) -> Table | None:
    """Top-1 of every class, and what it is most often taken for; None where no run tells."""
    known = [number for number, run in enumerate(runs) if run.classes]
    if not known:
        return None
    columns = {number: {row["name"]: _class_cell(row) for row in runs[number].classes} for number in known}
    return _table("Classes", columns)


class Study(NamedTuple):
    """Variants of a study: a row for each, a column for each measure, with the deviation over seeds as its note."""

    run: int
    measures: list[str]
    rows: list[tuple[str, list[Cell]]]


def studies(runs: list[Run]) -> list[Study]:
    """The table of every study that has a finished run."""
    found = []
    for number_, run in enumerate(runs):
        names, measures = (list(dict.fromkeys(row[key] for row in run.study)) for key in ("variant", "measure"))
        cells = {(row["variant"], row["measure"]): _study_cell(row) for row in run.study}
        rows = [(name, [cells.get((name, measure), EMPTY) for measure in measures]) for name in names]
        found += [Study(number_, [TITLES.get(measure, measure) for measure in measures], rows)] if rows else []
    return found


class Grid(NamedTuple):
    """The heads of a probe: a row for each rate, a column for each weight decay; (text, share, whether it is the best)."""

    run: int
    decays: list[str]
    rows: list[tuple[str, list[tuple[str, float, bool]]]]


def heads(runs: list[Run]) -> list[Grid]:
    """Top-1 of every head of every probe, on the clips that the best was chosen by."""
    found = []
    for run, workdir in enumerate(runs):
        details = workdir.report.details if workdir.report else {}
        listed = details.get("heads")
        entries = [head for head in listed if isinstance(head, dict)] if isinstance(listed, list) else []
        values = {(head.get("rate"), head.get("weight_decay")): head.get("accuracy/top1") for head in entries}
        values = {pair: value for pair, value in values.items() if isinstance(value, float)}
        best = _dict(details, "best")
        rates, decays = (list(dict.fromkeys(pair[place] for pair in values)) for place in (0, 1))
        rows = [
            (anything(rate), [_head(values.get((rate, decay)), (rate, decay) == (best.get("rate"), best.get("weight_decay")))
                              for decay in decays])
            for rate in rates
        ]  # fmt: skip
        found += [Grid(run, [anything(decay) for decay in decays], rows)] if rows else []
    return found


def environment(runs: list[Run]) -> Table | None:
    """What the newest start of every run was made on; None where no run tells."""
    columns = {}
    for number_, run in enumerate(runs):
        if run.starts:
            start = run.starts[-1]
            told = {name: start.get(name) for name in ("time", "step", "commit", "python", "system", "devices", "processes")}
            told["time"] = moment(told["time"]) if told["time"] else None
            told |= _dict(start, "versions")
            columns[number_] = {name: Cell(anything(value)) for name, value in told.items() if value not in (None, "")}
    return _table("", columns) if columns else None


def replaced(run: Run) -> str:
    """How many clips others took the place of, being unreadable; '' where none was."""
    most = max(_finite(run.series.get("data/replaced_clips", {})), default=0)
    return number(most) if most else ""


def _table(title: str, columns: dict[int, dict[str, Cell]]) -> Table:
    """A table out of cells by name of every run."""
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    rows = [(TITLES.get(name, name), [cells.get(name, EMPTY) for cells in columns.values()]) for name in names]
    return Table(title, list(columns), rows)


def _cell(name: str, value, before=None) -> Cell:
    share = float(value) if is_share(name) and isinstance(value, int | float) and 0 <= value <= 1 else None
    return Cell(anything(value, name), share, "" if before in (None, value) else f"untrained {anything(before, name)}")


def _class_cell(row: dict[str, str]) -> Cell:
    try:
        share = float(row["top1"])
    except ValueError:  # a class without a clip
        return Cell("–", None, f"{row['clips']} clips")
    taken = f", most often taken for {row['most_confused_with']}" if row["most_confused_with"] else ""
    return Cell(number(share, "top1"), share if 0 <= share <= 1 else None, f"{row['clips']} clips{taken}")


def _study_cell(row: dict[str, str]) -> Cell:
    try:
        mean, deviation = float(row["mean"]), float(row["deviation"] or "nan")
    except ValueError:  # no run of it is finished
        return EMPTY
    cell = _cell(row["measure"], mean)
    spread = f"± {number(deviation, row['measure'])}, " if math.isfinite(deviation) else ""
    return cell._replace(note=f"{spread}{row['runs']} {'run' if row['runs'] == '1' else 'runs'}")


def _head(value, best: bool) -> tuple[str, float, bool]:
    return ("–", 0.0, False) if value is None else (number(value, "accuracy/top1"), min(max(value, 0.0), 1.0), best)


def _place(name: str) -> int:
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def _finite(values: dict[int, float]):
    return (value for value in values.values() if math.isfinite(value))


def _dict(tree: dict, name: str) -> dict:
    """The object of that name; {} where there is none."""
    return tree[name] if isinstance(tree.get(name), dict) else {}
