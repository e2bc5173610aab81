"""Metrics of clips with several labels: average precision of every class, and their mean (mAP).

Labels are int8 [n, C]: 1 for each class of a clip, 0 for the others, all -1 for a clip without a label, which is left out everywhere; a
clip that is known to have none of the classes has 0 for all, and is a negative of each. Or bool [n, C], where a clip without any
class is one without a label. The average
precision of a class is scikit-learn's `average_precision_score`: the sum over the ranking of the clips, by the score of the class,
of precision times the step of recall, with ties taken together. mAP is the mean over the classes that at least one clip has.
"""

from typing import NamedTuple

import numpy as np

from cvmae.data.lines import csv_text
from cvmae.files import replacing

MAP = "mAP"  # the name of the metric in reports


class LabelRow(NamedTuple):
    """Results of one class.

    Attributes:
      number: the class number.
      name: the class name.
      clips: the number of clips that have this label.
      average_precision: 0..1; None without such a clip.
    """

    number: int
    name: str
    clips: int
    average_precision: float | None


def average_precisions(scores, labels) -> np.ndarray:
    """Returns the average precision (0..1) of every class, float64 [C]; NaN for a class that no clip has.

    Args:
      scores: float [n, C], higher for a more probable class; any monotonic function of it, class by class, gives the same.
      labels: int8 or bool [n, C].

    Raises:
      ValueError: shapes do not match, labels are of another dtype, scores of a labeled clip are not finite, or no clip is labeled.
    """
    scores, labels = _labeled(scores, labels)
    from sklearn import metrics  # takes a second to import, which no start of a run should wait for

    results = np.full(labels.shape[1], np.nan)
    for number in np.flatnonzero(labels.any(0)):
        results[number] = metrics.average_precision_score(labels[:, number].astype(int), scores[:, number])
    return results


def mean_average_precision(scores, labels) -> float:
    """Returns mAP (0..1), the mean of `average_precisions` over the classes that a clip has. Arguments and errors are the same."""
    return float(np.nanmean(average_precisions(scores, labels)))


def label_rows(scores, labels, class_names) -> list[LabelRow]:
    """Returns a row for every class, including classes without clips.

    Args:
      scores: float [n, C].
      labels: int8 or bool [n, C].
      class_names: C names.

    Raises:
      ValueError: see `average_precisions`; or the number of names differs.
    """
    precisions = average_precisions(scores, labels)
    if len(class_names) != len(precisions):
        raise ValueError(f"there are {len(precisions)} classes but {len(class_names)} class names: give one name a class")
    clips = (np.asarray(labels) > 0).sum(0)
    return [
        LabelRow(number, str(name), int(count), float(value) if count else None)
        for number, (name, count, value) in enumerate(zip(class_names, clips, precisions, strict=True))
    ]


def write_label_csv(path, rows: list[LabelRow]) -> None:
    """Writes the rows of `label_rows` as CSV, UTF-8 with a header, fractions with 4 digits; the file is written atomically."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        table = [[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
        file.write(csv_text([("class", *LabelRow._fields[1:]), *table]))


def labels_of(rows, label_sets) -> np.ndarray:
    """Returns the labels of clips, int8 [n, C], from rows of a table of label sets.

    Args:
      rows: int [n], -1 unlabeled, which gets -1 for every class.
      label_sets: bool [S, C], see `cvmae.data.sources.Source`.
    """
    rows, label_sets = np.asarray(rows), np.asarray(label_sets, bool)
    labels = np.full((len(rows), label_sets.shape[1]), -1, np.int8)
    labels[rows >= 0] = label_sets[rows[rows >= 0]]
    return labels


def has_label(labels: np.ndarray) -> np.ndarray:
    """Returns True for the clips that have a label, bool [n], none of the classes included; labels: int8 or bool [n, C]."""
    return np.asarray(labels.any(1) if labels.dtype == bool else (labels >= 0).all(1))


def _labeled(scores, labels):
    """Checks the arguments and returns the rows that have a label."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape or labels.dtype not in (bool, np.int8):
        raise ValueError(
            f"expected scores [n, C] and labels int8 or bool [n, C], not {scores.shape} and {labels.dtype} {labels.shape}"
        )
    keep = has_label(labels)
    if not (labels[keep] > 0).any():
        raise ValueError(f"none of the {len(labels)} clips has a class: average precision needs clips with labels")
    finite = np.isfinite(scores).all(1) | ~keep
    if not finite.all():
        raise ValueError(f"the scores of row {finite.argmin()} are not finite: {(~finite).sum()} such rows")
    return scores[keep], labels[keep] > 0
