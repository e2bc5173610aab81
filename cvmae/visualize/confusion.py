"""Plot of a confusion matrix: row-normalized counts in color, and a list of the most frequent confusions."""

import matplotlib.colors
import matplotlib.figure
import numpy as np

from cvmae.files import replacing
from cvmae.storage.path import as_path

NAMED, FRACTIONS = 30, 12  # maximum numbers of classes for class names on the axes, and for fractions in the cells
NAME_CHARS = 40


def draw_confusion(path, matrix, class_names, top: int = 20) -> None:
    """Plots how often clips of the true class (row) are predicted as another class (column).

    Color is the fraction of the row, on a square-root scale that makes small fractions visible; rows without clips stay empty.
    Up to 30 classes are named along the rows; with more, the axes show class numbers and the listed confusions are circled. The
    `top` most frequent confusions are listed beside the matrix.

    Args:
      path: the output file; its suffix determines the format.
      matrix: counts, int [C, C], rows true, columns predicted.
      class_names: C names.
      top: the number of confusions to list.

    Raises:
      ValueError: the matrix is not square, or the number of names differs.
    """
    matrix, path = np.asarray(matrix), as_path(path)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(class_names) != len(matrix):
        raise ValueError(f"expected counts [C, C] and C names, not {matrix.shape} and {len(class_names)} names")
    worst = most_confused(matrix, top)
    figure = matplotlib.figure.Figure(figsize=(15, 8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(8, 7))
    picture = _draw_matrix(left, matrix, class_names, worst)
    figure.colorbar(picture, ax=left, label="fraction of the true class", fraction=0.04)
    right.set_axis_off()
    lines = _listing(matrix, class_names, worst)
    style = {"va": "top", "family": "monospace", "fontsize": min(9, 400 / len(lines)), "parse_math": False}
    right.text(0, 1, "\n".join(lines), transform=right.transAxes, **style)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:] or "png")


def most_confused(matrix, top: int) -> list[tuple[int, int]]:
    """Returns (true, predicted) of the `top` largest off-diagonal counts, largest first; ties by class number."""
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:top]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    return [(int(i), int(j)) for i, j in pairs if wrong[i, j] > 0]


def _draw_matrix(axis, matrix, class_names, worst):
    clips = matrix.sum(1, keepdims=True)
    fractions = np.where(clips > 0, matrix / np.maximum(clips, 1), np.nan)
    scale = matplotlib.colors.PowerNorm(0.5, vmin=0, vmax=1)
    picture = axis.imshow(fractions, norm=scale, cmap="viridis", interpolation="nearest")
    axis.set(title=f"{np.trace(matrix)} of {matrix.sum()} clips correct", xlabel="predicted class", ylabel="true class")
    if len(matrix) <= NAMED:
        numbers = range(len(matrix))
        axis.set_xticks(numbers, numbers, fontsize="small")
        names = [f"{_short(name)}  {i}" for i, name in enumerate(class_names)]
        axis.set_yticks(numbers, names, fontsize="small", parse_math=False)
    else:
        rows, columns = zip(*worst) if worst else ((), ())
        axis.plot(columns, rows, "o", fillstyle="none", color="tab:red", markersize=9, clip_on=False)
    if len(matrix) <= FRACTIONS:
        for (i, j), fraction in np.ndenumerate(fractions):
            if np.isfinite(fraction):
                axis.text(j, i, f"{fraction:.0%}", ha="center", va="center", color="black" if fraction > 0.4 else "white")
    return picture


def _listing(matrix, class_names, worst):
    """Formats the confusions as text, two lines each."""
    lines = ["most frequent confusions" if worst else "no confusions", ""]
    for true, predicted in worst:
        count, clips = matrix[true, predicted], matrix[true].sum()
        lines.append(f"{count:5d} of {clips} ({count / clips:.0%})  {true} {_short(class_names[true])}")
        lines.append(f"{'predicted as':>20}  {predicted} {_short(class_names[predicted])}")
    return lines


def _short(name):
    name = str(name)
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
