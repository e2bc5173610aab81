"""What the finished runs of a study reached: `table.md`, `table.csv` and `table.png` in its workdir."""

import csv
import dataclasses
import io
import pathlib

from cvmae.ablation.plot import draw
from cvmae.ablation.study import Run
from cvmae.evaluation.summary import cell, markdown, mean_deviation
from cvmae.evaluation.titles import ROWS
from cvmae.files import replacing

UNTRAINED = "untrained"
FAILED = "failed.txt"  # in a run's folder: why it failed, until it is tried again
TITLES = {name: (title, share) for name, title, share in ROWS}


@dataclasses.dataclass(frozen=True)
class Results:
    """The numbers of a study's finished runs.

    Attributes:
      values: {variant: {measure: [value of each finished run, in the order of the seeds]}}; a measure that a run lacks, such as
        the reconstruction error of a variant without a decoder, has none of it. `UNTRAINED` is the first variant before training.
      missing: {run: why}, in the order of the runs.
    """

    values: dict[str, dict[str, list[float]]]
    missing: dict[str, str]


def collect(config, runs: list[Run]) -> Results:
    """Reads what there is of `runs`, all those of the study of `config`."""
    measures, first = config.study.measures, runs[0].variant
    values = {name: {measure: [] for measure in measures} for name in (UNTRAINED, *dict.fromkeys(run.variant for run in runs))}
    missing = {}
    for run in runs:
        report = run.report
        if report is None:
            missing[run.name] = why_missing(run)
            continue
        rows = {run.variant: report["trained"]} | ({UNTRAINED: report.get("untrained", {})} if run.variant == first else {})
        for row, numbers in rows.items():
            for measure in measures:
                if measure in numbers:
                    values[row][measure].append(numbers[measure])
    return Results(values, missing)


def why_missing(run: Run) -> str:
    """What is known of a run without a report."""
    note = run.folder / FAILED
    if note.exists():
        return f"failed: {note.read_text(encoding='utf-8').strip()}"
    return "not finished" if run.folder.exists() else "not begun"


def as_markdown(config, found: Results) -> str:
    """Title, table, what is not in it, and the study's note."""
    study = config.study
    head = ["", *(TITLES[measure][0] for measure in study.measures)]
    lines = [
        [name, *(cell(row[measure], TITLES[measure][1]) for measure in study.measures)] for name, row in found.values.items()
    ]
    seeds = ", ".join(map(str, study.seeds))
    over = f"mean ± standard deviation over seeds {seeds}" if len(study.seeds) > 1 else f"seed {seeds}"
    length = f"{config.pretrain.total.replace('_', ' ')} of batch {config.pretrain.batch_size}"
    title = f"Study `{study.name}` on `{study.base}`: {length}, {over}; {UNTRAINED}: `{study.variants[0][0]}` before training."
    text = [title, markdown(head, lines)]
    if found.missing:
        text.append("Missing, so not in the table:\n\n" + "\n".join(f"- {name}: {why}" for name, why in found.missing.items()))
    return "\n\n".join(text + [study.note] * bool(study.note)) + "\n"


def as_csv(found: Results) -> str:
    """A line for each variant and measure: how many runs, their mean, deviation of a sample (empty for one run), and values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "measure", "runs", "mean", "deviation", "values"])
    for name, row in found.values.items():
        for measure, values in row.items():
            mean, deviation = mean_deviation(values) if values else ("", None)
            spread = "" if deviation is None else deviation
            writer.writerow([name, measure, len(values), mean, spread, " ".join(map(repr, values))])
    return out.getvalue()


def write(config, runs: list[Run], folder: pathlib.Path) -> str:
    """Writes table, CSV and plot of what there is, and returns the table.

    Runs of an array write the same files: each looks again when it has written, so that the last to write has seen every run.
    """
    found = None
    while (now := collect(config, runs)) != found:
        found = now
        text = as_markdown(config, found)
        for name, content in (("table.md", text), ("table.csv", as_csv(found))):
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        draw(folder / "table.png", found.values, {measure: TITLES[measure] for measure in config.study.measures}, UNTRAINED)
    return text
