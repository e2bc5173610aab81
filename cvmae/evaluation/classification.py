"""Classification metrics of class probabilities: top-k accuracy, per-class accuracy, confusion matrix.

A clip with the label -1 is unlabeled and left out everywhere. Classes are ranked by descending probability, ties by ascending
class number, so that top-1 is the argmax and agrees with the confusion matrix. (scikit-learn's `top_k_accuracy_score` ranks ties
by descending class number; without ties the two are equal.)
"""

from typing import NamedTuple

import numpy as np

from cvmae.data.lines import csv_text
from cvmae.files import replacing

TOP = 5  # the k of top-5 accuracy; reduced to the number of classes if there are fewer


class ClassRow(NamedTuple):
    """Results of one class.

    Attributes:
      number: the class number.
      name: the class name.
      clips: the number of labeled clips of the class.
      top1: top-1 accuracy of these clips, 0..1; None without clips.
      top5: top-5 accuracy of these clips, 0..1; None without clips.
      most_confused_with: the wrong class that its clips are most often predicted as; empty if no clip is misclassified.
    """

    number: int
    name: str
    clips: int
    top1: float | None
    top5: float | None
    most_confused_with: str


def top_k_accuracy(probabilities, labels, k: int) -> float:
    """Returns the fraction (0..1) of labeled clips whose class is among the `k` most probable ones.

    Args:
      probabilities: float [n, C]; any monotonic function of the probability, such as logits, gives the same result.
      labels: int [n], -1 unlabeled.
      k: 1 or more; reduced to the number of classes.

    Raises:
      ValueError: shapes do not match, a label is not below C, values are not finite, or no clip is labeled.
    """
    if k < 1:
        raise ValueError(f"top-k accuracy needs a k of 1 or more, not {k}")
    return float((_ranks(*_labeled(probabilities, labels)) < k).mean())


def mean_class_accuracy(probabilities, labels) -> float:
    """Returns the mean recall (0..1) over the classes that occur in `labels`.

    It equals scikit-learn's `balanced_accuracy_score`. Arguments and errors as in `top_k_accuracy`.
    """
    matrix = confusion_matrix(probabilities, labels)
    clips = matrix.sum(1)
    return float((np.diag(matrix)[clips > 0] / clips[clips > 0]).mean())


def confusion_matrix(probabilities, labels) -> np.ndarray:
    """Counts clips of true class i (row) predicted as class j (column), int64 [C, C]. Arguments as in `top_k_accuracy`."""
    probabilities, labels = _labeled(probabilities, labels)
    classes = np.arange(probabilities.shape[1])
    from sklearn import metrics  # takes a second to import, which no start of a run should wait for

    return metrics.confusion_matrix(labels, probabilities.argmax(1), labels=classes).astype(np.int64)


def per_class_rows(probabilities, labels, class_names) -> list[ClassRow]:
    """Returns a row for every class, including classes without clips.

    Args:
      probabilities: float [n, C].
      labels: int [n], -1 unlabeled.
      class_names: C names.

    Raises:
      ValueError: see `top_k_accuracy`; or the number of names differs.
    """
    matrix = confusion_matrix(probabilities, labels)
    _check_names(class_names, len(matrix))
    probabilities, labels = _labeled(probabilities, labels)
    ranks, rows = _ranks(probabilities, labels), []
    for number, (name, counts) in enumerate(zip(class_names, matrix)):
        clips, wrong = int(counts.sum()), counts.copy()
        wrong[number] = 0
        other = str(class_names[wrong.argmax()]) if wrong.any() else ""
        own = ranks[labels == number]
        top1, top5 = (float((own < k).mean()) if clips else None for k in (1, TOP))
        rows.append(ClassRow(number, str(name), clips, top1, top5, other))
    return rows


def write_per_class_csv(path, rows: list[ClassRow]) -> None:
    """Writes the rows of `per_class_rows` as CSV, UTF-8 with a header, fractions with 4 digits; the file is written atomically."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        table = [[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
        file.write(csv_text([("class", *ClassRow._fields[1:]), *table]))


def summarize(probabilities, labels, class_names) -> dict[str, float]:
    """Returns `top1`, `top5`, `mean_class_accuracy` (0..1) and `clips`, the number of labeled clips.

    Arguments as in `per_class_rows`.
    """
    probabilities, labels = _labeled(probabilities, labels)
    _check_names(class_names, probabilities.shape[1])
    return {
        "top1": top_k_accuracy(probabilities, labels, 1),
        "top5": top_k_accuracy(probabilities, labels, TOP),
        "mean_class_accuracy": mean_class_accuracy(probabilities, labels),
        "clips": float(len(labels)),
    }


def _ranks(probabilities, labels):
    """Returns the rank of each label among the classes, int [n]: 0 for the most probable class."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    lower = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > own) | ((probabilities == own) & lower)).sum(1)


def _labeled(probabilities, labels):
    """Checks the arguments and returns the rows that have a label."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"expected probabilities [n, C] and labels [n], not {probabilities.shape} and {labels.shape}")
    check_labels(labels, probabilities.shape[1])
    keep = labels >= 0
    if not keep.any():
        raise ValueError(f"none of the {len(labels)} clips has a label (0 or more): accuracy needs labeled clips")
    probabilities, numbers = probabilities[keep], np.flatnonzero(keep)
    finite = np.isfinite(probabilities).all(1)
    if not finite.all():
        raise ValueError(f"the probabilities of row {numbers[finite.argmin()]} are not finite: {(~finite).sum()} such rows")
    return probabilities, labels[keep]


def check_labels(labels, classes: int) -> None:
    """Raises ValueError, naming the row, if labels are not integers or a label is not below the number of classes."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers (-1 unlabeled), not {labels.dtype}")
    if (labels >= classes).any():
        row = int((labels >= classes).argmax())
        raise ValueError(f"row {row} has the label {labels[row]}, but there are {classes} classes (0 to {classes - 1})")


def _check_names(class_names, classes: int):
    if len(class_names) != classes:
        raise ValueError(f"there are {classes} classes but {len(class_names)} class names: give one name a class")
