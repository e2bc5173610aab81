"""The plot of a study: a panel for each measure, a line for each variant, with the deviation over seeds."""

import matplotlib.figure

from cvmae.evaluation.summary import mean_deviation
from cvmae.files import replacing


def draw(path, values: dict[str, dict[str, list[float]]], measures: dict[str, tuple[str, bool]], reference: str) -> None:
    """Writes the picture of `figure` as PNG; where no measure has a value there is none."""
    picture = figure(values, measures, reference)
    if picture is not None:
        with replacing(path) as temporary:
            picture.savefig(temporary, dpi=110, format="png")


def figure(
    values: dict[str, dict[str, list[float]]], measures: dict[str, tuple[str, bool]], reference: str
) -> matplotlib.figure.Figure | None:
    """The figure, None where no measure has a value.

    Args:
      values: {variant: {measure: a value for each seed}}.
      measures: {measure: (title, whether it is a share, drawn in %)}.
      reference: the variant whose mean is a dashed line instead of a point; where it is so far off that the others would be
        one heap beside it, its mean is said instead.
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
    """Every value as a dot, and for each row that has any the mean with its deviation."""
    for place, row in enumerate(rows):
        axis.plot(row, [place] * len(row), ".", color="0.4", markersize=4, zorder=3)
    points = [(place, *mean_deviation(row)) for place, row in enumerate(rows) if row]
    places, means, deviations = zip(*points)
    axis.errorbar(means, places, xerr=[d or 0.0 for d in deviations], fmt="o", color="C0", capsize=3, zorder=2)
    axis.grid(axis="x", alpha=0.3)


def mark(axis, value: float, name: str) -> None:
    """A dashed line at a value; where that lies further from what is drawn than this is wide, words below."""
    low, high = axis.get_xlim()
    if 2 * low - high <= value <= 2 * high - low:
        axis.axvline(value, color="0.5", linestyle="--", label=name)
        axis.legend(fontsize="small")
    else:
        where = "left" if value < low else "right"
        axis.set_xlabel(f"{axis.get_xlabel()}  ({name}: {value:.3g}, to the {where})".strip())
