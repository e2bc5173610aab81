"""Retrieval on one page: a query a row, and the clips nearest to it, each right or wrong."""

import dataclasses

import numpy as np

from cvmae.visualize.canvas import PALE, Cell, Row, as_bytes, compose, fitted_size, resized

RIGHT, WRONG, QUERY = (32, 140, 80), (204, 60, 50), (70, 80, 200)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """One query and its neighbors, the nearest first.

    Attributes:
      query: the middle frame, uint8 [H, W, 3].
      neighbors: theirs, uint8 [k, H, W, 3].
      similarity: float [k].
      label: of the query, -1 unlabeled.
      labels: int [k], of the neighbors.
    """

    query: np.ndarray
    neighbors: np.ndarray
    similarity: np.ndarray
    label: int
    labels: np.ndarray

    @property
    def right(self) -> list[bool | None]:
        """Whether each neighbor is of the query's class; None where one of the two has no label."""
        return [None if min(self.label, label) < 0 else bool(label == self.label) for label in self.labels]


def middle_frames(pixels) -> np.ndarray:
    """The middle frame of clips [n, T, H, W, 3] in 0..1, as uint8 [n, H, W, 3]."""
    return as_bytes(pixels[:, pixels.shape[1] // 2])


def share_right(found: list[Retrieval]) -> float | None:
    """Of all neighbors whose class can be compared the share of the query's class; None where there are none."""
    marks = [mark for one in found for mark in one.right if mark is not None]
    return sum(marks) / len(marks) if marks else None


def draw_sheet(found: list[Retrieval], names: tuple[str, ...], title: str, note: str = "") -> np.ndarray:
    """The sheet, uint8 [H, W, 3]: neighbors of the query's class have a green frame and a tick, others a red one and a cross;
    above it its similarity and class."""
    size = fitted_size(*found[0].query.shape[:2])
    rows = []
    for one in found:
        cells = [Cell(resized(one.query, size), f"query\n{class_name(one.label, names)}".strip(), QUERY)]
        for picture, similarity, label, right in zip(one.neighbors, one.similarity, one.labels, one.right):
            sign, border = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", PALE)}[right]
            caption = f"{sign}{similarity:.3f}\n{class_name(int(label), names)}".strip()
            cells.append(Cell(resized(picture, size), caption, border))
        rows.append(Row(cells))
    return compose(rows, title, note=note)


def class_name(label: int, names: tuple[str, ...]) -> str:
    """What a class is called; empty for none."""
    if label < 0:
        return ""
    return str(names[label]) if label < len(names) else f"class {label}"
