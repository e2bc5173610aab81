"""Plot of a run's metrics over its steps."""

from collections.abc import Mapping, Sequence

import matplotlib.axes
import matplotlib.figure
import matplotlib.lines

from cvmae.files import replacing

PANELS = (("loss/", "loss"), ("accuracy/", "accuracy of the contrastive terms"), ("feature_std/", "feature standard deviation"))
HELD_OUT = "dashed: held-out clips"


def draw_curves(path, lines: Sequence[Mapping[str, float]]) -> None:
    """Writes a plot with one panel per group of metrics; evaluations on held-out clips are dashed. Writes nothing without metrics.

    Args:
      path: the output file.
      lines: parsed lines of metrics.jsonl.
    """
    names = sorted({name for line in lines for name in line})
    panels = [(prefix, title) for prefix, title in PANELS if any(name.startswith(prefix) for name in names)]
    if not panels:
        return
    figure = matplotlib.figure.Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axis, (prefix, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _draw_panel(axis, lines, [name for name in names if name.startswith(prefix)], prefix)
        axis.set(title=title, xlabel="step")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_panel(axis: matplotlib.axes.Axes, lines: Sequence[Mapping[str, float]], names: list[str], prefix: str) -> None:
    """Draws the metrics `names` in one color each, solid, with `eval/NAME` dashed in the same color."""
    evaluated = False
    for number, name in enumerate(names):
        for key, style, label in ((name, "-", name.removeprefix(prefix)), (f"eval/{name}", "--", None)):
            points = [(line["step"], line[key]) for line in lines if key in line]
            evaluated |= key != name and bool(points)
            axis.plot([step for step, _ in points], [value for _, value in points], style, color=f"C{number}", label=label)
    handles, _ = axis.get_legend_handles_labels()
    if evaluated:
        handles.append(matplotlib.lines.Line2D([], [], color="0.4", linestyle="--", label=HELD_OUT))
    axis.legend(handles=handles, fontsize="small")
