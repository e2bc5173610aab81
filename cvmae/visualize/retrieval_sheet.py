"""Sheet of retrieval results: a row for each query with its nearest clips, marked as correct or wrong."""

import dataclasses

import numpy as np

from cvmae.visualize.canvas import PALE, Cell, Row, as_bytes, compose, fitted_size, resized

RIGHT, WRONG, QUERY = (32, 140, 80), (204, 60, 50), (70, 80, 200)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """A query and its neighbors, nearest first.

    Attributes:
      query: the middle frame of the query, uint8 [H, W, 3].
      neighbors: the middle frames of the neighbors, uint8 [k, H, W, 3].
      similarity: cosine similarity of each neighbor, float [k].
      label: label of the query, -1 unlabeled.
      labels: labels of the neighbors, int [k].
      label_sets: with several labels a clip bool [S, C], of which `label` and `labels` are rows; else None.
    """

    query: np.ndarray
    neighbors: np.ndarray
    similarity: np.ndarray
    label: int
    labels: np.ndarray
    label_sets: np.ndarray | None = None

    @property
    def right(self) -> list[bool | None]:
        """For each neighbor, True if it is of the query's class, or shares a label; None if one of the two has no label."""
        return [None if min(self.label, label) < 0 else self._is_right(label) for label in self.labels]

    def _is_right(self, label) -> bool:
        if self.label_sets is None:
            return bool(label == self.label)
        return bool((self.label_sets[label] & self.label_sets[self.label]).any())


def middle_frames(pixels) -> np.ndarray:
    """Takes the middle frames of clips [n, T, H, W, 3] in 0..1, as uint8 [n, H, W, 3]."""
    return as_bytes(pixels[:, pixels.shape[1] // 2])


def fraction_right(retrievals: list[Retrieval]) -> float | None:
    """Returns the fraction of labeled neighbors of labeled queries that are `Retrieval.right`; None without such pairs."""
    marks = [mark for retrieval in retrievals for mark in retrieval.right if mark is not None]
    return sum(marks) / len(marks) if marks else None


def draw_sheet(retrievals: list[Retrieval], names: tuple[str, ...], title: str, note: str = "") -> np.ndarray:
    """Draws the sheet, uint8 [H, W, 3].

    Neighbors of the query's class, or with one of its labels, have a green border and a tick, others a red border and a cross; the captions are the
    similarity and the class.
    """
    height, width = retrievals[0].query.shape[:2]
    size = fitted_size(height, width)
    rows = []
    for retrieval in retrievals:
        cells = [Cell(resized(retrieval.query, size), f"query\n{class_name(retrieval.label, names)}".strip(), QUERY)]
        neighbors = zip(retrieval.neighbors, retrieval.similarity, retrieval.labels, retrieval.right)
        for picture, similarity, label, right in neighbors:
            sign, border = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", PALE)}[right]
            caption = f"{sign}{similarity:.3f}\n{class_name(int(label), names)}".strip()
            cells.append(Cell(resized(picture, size), caption, border))
        rows.append(Row(cells))
    return compose(rows, title, note=note)


def label_names(class_names: tuple[str, ...], label_sets: np.ndarray | None) -> tuple[str, ...]:
    """Returns the names of labels: of the classes, or with several labels a clip of every set, its classes' joined by commas.

    Args:
      class_names: C names; () if classes have only numbers.
      label_sets: None, or bool [S, C], see `cvmae.data.sources.Source`.
    """
    if label_sets is None:
        return class_names
    sets = (", ".join(class_name(int(label), class_names) for label in np.flatnonzero(row)) for row in label_sets)
    return tuple(names or "none of the classes" for names in sets)


def class_name(label: int, names: tuple[str, ...]) -> str:
    """Returns the name of a class, or `class N` if it has none; empty for a label of -1."""
    if label < 0:
        return ""
    return str(names[label]) if label < len(names) else f"class {label}"
