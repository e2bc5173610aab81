"""Principal components of tokens and of features: as colors, and as places on a plane."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Components:
    """The directions in which rows differ most.

    Attributes:
      mean: float64 [D].
      axes: float64 [k, D], orthonormal, the one of the greatest variance first, each with its largest entry above 0.
      shares: float64 [k], of the variance.
    """

    mean: np.ndarray
    axes: np.ndarray
    shares: np.ndarray

    def project(self, rows) -> np.ndarray:
        """Rows [..., D] along the axes, float64 [..., k]."""
        return (np.asarray(rows, np.float64) - self.mean) @ self.axes.T


def principal(rows, count: int) -> Components:
    """The first `count` principal components of rows [n, D]; where there are fewer, the others are zeros."""
    rows = np.asarray(rows, np.float64)
    mean = rows.mean(0)
    _, deviations, axes = np.linalg.svd(rows - mean, full_matrices=False)
    # A direction has no sign of its own: the same rows must always give the same picture.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    axes, total = axes * np.where(largest < 0, -1, 1), max(float((deviations**2).sum()), 1e-12)
    short = max(0, count - len(axes))
    shares = np.pad(deviations[:count] ** 2 / total, (0, short))
    return Components(mean, np.pad(axes[:count], ((0, short), (0, 0))), shares)


def as_colors(rows) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, D] as red, green and blue: their first three principal components.

    Returns:
      float32 [n, 3] in 0..1, the 1st and the 99th percentile of each component; and the components' shares of the variance, [3].
    """
    components = principal(rows, 3)
    found = components.project(rows)
    low, high = np.percentile(found, (1, 99), axis=0)
    return np.clip((found - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32), components.shares
