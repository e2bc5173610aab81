"""The plot of a run's metrics over its steps."""

import matplotlib.figure

PANELS = (("loss/", "loss"), ("accuracy/", "accuracy of the contrastive terms"), ("feature_std/", "feature deviation"))


def draw_curves(path, lines: list[dict]) -> None:
    """Writes a picture with one panel for each kind of metric; evaluations are dashed. Where nothing was logged there is none.

    Args:
      path: of the picture.
      lines: of metrics.jsonl.
    """
    names = sorted({name for line in lines for name in line})
    panels = [(prefix, title) for prefix, title in PANELS if any(name.startswith(prefix) for name in names)]
    if not panels:
        return
    figure = matplotlib.figure.Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axis, (prefix, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for number, name in enumerate(n for n in names if n.startswith(prefix)):
            for key, style in ((name, "-"), (f"eval/{name}", "--")):
                points = [(line["step"], line[key]) for line in lines if key in line]
                label = name.removeprefix(prefix) if style == "-" else None
                axis.plot(*zip(*points, strict=True) if points else ([], []), style, color=f"C{number}", label=label)
        axis.set(title=title, xlabel="step")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
