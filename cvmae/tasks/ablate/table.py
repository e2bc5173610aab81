"""The table of a study's finished runs: `table.md`, `table.csv` and `table.png` in its workdir."""

import csv
import dataclasses
import io

import matplotlib.figure

from cvmae.evaluation.pretraining_report import report_rows
from cvmae.files import replacing
from cvmae.report.summary import cell, markdown, mean_deviation
from cvmae.storage.path import AnyPath
from cvmae.tasks.ablate.study import StudyRun

UNTRAINED = "untrained"
FAILED = "failed.txt"  # in a run's folder: why it failed, until it is tried again


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


def collect(config, runs: list[StudyRun]) -> Results:
    """Reads what there is of `runs`, all those of the study of `config`."""
    measures, first = config.study.measures, runs[0].variant
    values: dict[str, dict[str, list[float]]] = {
        name: {measure: [] for measure in measures} for name in (UNTRAINED, *dict.fromkeys(run.variant for run in runs))
    }
    missing = {}
    for run in runs:
        report = run.report
        if report is None:
            missing[run.name] = why_missing(run)
            continue
        rows = {run.variant: report.metrics} | ({UNTRAINED: report.baseline} if run.variant == first else {})
        for row, numbers in rows.items():
            for measure in measures:
                if measure in numbers:
                    values[row][measure].append(numbers[measure])
    return Results(values, missing)


def why_missing(run: StudyRun) -> str:
    """Returns the reason why a run has no report."""
    note = run.folder / FAILED
    if note.exists():
        return f"failed: {note.read_text(encoding='utf-8').strip()}"
    return "not finished" if run.folder.exists() else "not begun"


def titles(config) -> dict[str, tuple[str, bool]]:
    """Returns {measure: (title, True for a fraction in 0..1)} of the measures of a study, in its order."""
    rows = {name: (title, is_fraction) for name, title, is_fraction in report_rows()}
    return {measure: rows[measure] for measure in config.study.measures}


def as_markdown(config, results: Results) -> str:
    """Formats title, table, missing runs and the study's note as Markdown."""
    study, measures = config.study, titles(config)
    head = ["", *(title for title, _ in measures.values())]
    lines = [
        [name, *(cell(row[measure], is_fraction) for measure, (_, is_fraction) in measures.items())]
        for name, row in results.values.items()
    ]
    seeds = ", ".join(map(str, study.seeds))
    over = f"mean ± standard deviation over seeds {seeds}" if len(study.seeds) > 1 else f"seed {seeds}"
    length = f"{config.pretrain.total.replace('_', ' ')} of batch {config.pretrain.batch_size}"
    title = f"Study `{study.name}` on `{study.base}`: {length}, {over}; {UNTRAINED}: `{study.variants[0][0]}` before training."
    text = [title, markdown(head, lines)]
    if results.missing:
        text.append("Missing, so not in the table:\n\n" + "\n".join(f"- {name}: {why}" for name, why in results.missing.items()))
    if study.note:
        text.append(study.note)
    return "\n\n".join(text) + "\n"


def as_csv(results: Results) -> str:
    """Formats a CSV line for each variant and measure: number of runs, mean, sample standard deviation (empty for one run), values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "measure", "runs", "mean", "deviation", "values"])
    for name, row in results.values.items():
        for measure, values in row.items():
            mean, deviation = mean_deviation(values) if values else ("", None)
            spread = "" if deviation is None else deviation
            writer.writerow([name, measure, len(values), mean, spread, " ".join(map(repr, values))])
    return out.getvalue()


def write(config, runs: list[StudyRun], folder: AnyPath) -> str:
    """Writes table, CSV and plot of the finished runs, and returns the table.

    Runs of an array write the same files: each looks again when it has written, so that the last to write has seen every run.
    """
    results = None
    while (now := collect(config, runs)) != results:
        results = now
        text = as_markdown(config, results)
        for name, content in (("table.md", text), ("table.csv", as_csv(results))):
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
        draw(folder / "table.png", results.values, titles(config), UNTRAINED)
    return text


def draw(path, values: dict[str, dict[str, list[float]]], measures: dict[str, tuple[str, bool]], reference: str) -> None:
    """Writes the picture of `figure` as PNG; not where no measure has a value."""
    picture = figure(values, measures, reference)
    if picture is not None:
        with replacing(path) as temporary:
            picture.savefig(temporary, dpi=110, format="png")


def figure(
    values: dict[str, dict[str, list[float]]], measures: dict[str, tuple[str, bool]], reference: str
) -> matplotlib.figure.Figure | None:
    """Draws the figure; returns None where no measure has a value.

    Args:
      values: {variant: {measure: a value for each seed}}.
      measures: {measure: (title, True for a fraction, drawn in %)}.
      reference: the variant whose mean is a dashed line instead of a point; where it is so far off that the others would be
        one heap beside it, its mean is written below instead.
    """
    names = [name for name in values if name != reference]
    shown = [measure for measure in measures if any(values[name][measure] for name in names)]
    if not shown:
        return None
    size = (3.2 + 2.8 * len(shown), 1.4 + 0.34 * len(names))
    drawn = matplotlib.figure.Figure(figsize=size, layout="constrained")
    for axis, measure in zip(drawn.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown):
        title, share = measures[measure]
        scale = 100 if share else 1
        panel(axis, [[scale * value for value in values[name][measure]] for name in names])
        axis.set_title(title, fontsize="small")
        axis.set_xlabel("%" if share else "")
        if values.get(reference, {}).get(measure):
            mark(axis, scale * mean_deviation(values[reference][measure])[0], reference)
        axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    return drawn


def panel(axis, rows: list[list[float]]) -> None:
    """Draws every value as a dot, and for each row that has any the mean with its standard deviation."""
    for position, row in enumerate(rows):
        axis.plot(row, [position] * len(row), ".", color="0.4", markersize=4, zorder=3)
    points = [(position, *mean_deviation(row)) for position, row in enumerate(rows) if row]
    positions, means, deviations = zip(*points)
    axis.errorbar(means, positions, xerr=[d or 0.0 for d in deviations], fmt="o", color="C0", capsize=3, zorder=2)
    axis.grid(axis="x", alpha=0.3)


def mark(axis, value: float, name: str) -> None:
    """Draws a dashed line at a value, or names the value below the axis where the line would lie far outside."""
    low, high = axis.get_xlim()
    if 2 * low - high <= value <= 2 * high - low:
        axis.axvline(value, color="0.5", linestyle="--", label=name)
        axis.legend(fontsize="small")
    else:
        where = "left" if value < low else "right"
        axis.set_xlabel(f"{axis.get_xlabel()}  ({name}: {value:.3g}, to the {where})".strip())
