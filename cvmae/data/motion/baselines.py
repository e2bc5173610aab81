"""What simple features reach on a set: logistic regression, from one frame up to optical flow."""

from __future__ import annotations

import csv
import os
import pathlib

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvmae.data.motion import video


def load(manifest: str | os.PathLike[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """All clips of a split as uint8 [N, T, H, W, 3] with their labels, str [N]."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    folder = pathlib.Path(manifest).parent
    return np.stack([video.read(folder / row["path"]) for row in rows]), np.array([row["label"] for row in rows])


def middle_frame(clips: np.ndarray) -> np.ndarray:
    """One frame, uint8 [N, T, H, W, 3] -> [N, H*W*3] at 32x32."""
    return _small(clips[:, clips.shape[1] // 2 :][:, :1], 32).reshape(len(clips), -1)


def first_frame(clips: np.ndarray) -> np.ndarray:
    """The frame known to be the first, at 32x32: where things start tells some classes, for those who know the order."""
    return _small(clips[:, :1], 32).reshape(len(clips), -1)


def order_free(clips: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of every pixel at 32x32: what a bag of frames holds."""
    small = _small(clips, 32)
    return np.concatenate([small.mean(1), small.std(1)], -1).reshape(len(clips), -1)


def frame_difference(clips: np.ndarray) -> np.ndarray:
    """Where the picture changes, step by step: absolute differences of following frames in grey at 16x16, in order."""
    grey = _small(clips, 16).mean(-1)
    return np.abs(np.diff(grey, axis=1)).reshape(len(clips), -1)


def optical_flow(clips: np.ndarray, cells: int = 4) -> np.ndarray:
    """Farneback flow of following frames, averaged over a grid of cells and over time (and its two halves)."""
    features = []
    for clip in clips:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        flow = np.stack([cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 9, 3, 5, 1.1, 0) for a, b in zip(grey, grey[1:])])
        fields = [_cells(part.mean(0), cells) for part in (flow, *np.array_split(flow, 2))]
        divergence = (fields[0] * _grid(cells)).sum(-1)
        curl = (fields[0] * _grid(cells)[..., ::-1] * (1, -1)).sum(-1)
        features.append(np.concatenate([f.ravel() for f in (*fields, divergence, curl)]))
    return np.array(features)


FEATURES = {
    "first frame": first_frame,
    "middle frame": middle_frame,
    "order-free": order_free,
    "ordered frame difference": frame_difference,
    "optical flow": optical_flow,
}


def accuracies(
    manifest: str | os.PathLike[str], names: tuple[str, ...] = tuple(FEATURES), tolerance: float = 1e-4
) -> dict[str, float]:
    """Test accuracy (0..1) of logistic regression on each named feature, fitted on the training split.

    Args:
      manifest: path of the set's CSV.
      names: keys of FEATURES.
      tolerance: of the fit; 1e-2 is many times faster and moves the accuracy by a point or two.
    """
    train, train_labels = load(manifest, "train")
    test, test_labels = load(manifest, "test")
    result = {}
    for name in names:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=tolerance))
        model.fit(FEATURES[name](train), train_labels)
        result[name] = float(model.score(FEATURES[name](test), test_labels))
    return result


def table(manifest: str | os.PathLike[str]) -> str:
    """The accuracies in per cent as lines of text, chance first."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chance = 1 / len({row["label"] for row in rows})
    counts = [sum(row["split"] == split for row in rows) for split in ("train", "test")]
    lines = [f"{counts[0]} training and {counts[1]} test clips; accuracy on the test clips in %"]
    return "\n".join(
        lines + [f"{name:26s} {100 * value:5.1f}" for name, value in {"chance": chance, **accuracies(manifest)}.items()]
    )


def _small(clips: np.ndarray, side: int) -> np.ndarray:
    """Shrinks uint8 [N, T, H, W, 3] to float32 [N, T, side, side, 3] in 0..1."""
    small = [[cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in clip] for clip in clips]
    return np.asarray(small, np.float32) / 255


def _cells(flow: np.ndarray, cells: int) -> np.ndarray:
    """Averages float [H, W, 2] over a grid: [cells, cells, 2]."""
    return cv2.resize(flow, (cells, cells), interpolation=cv2.INTER_AREA)


def _grid(cells: int) -> np.ndarray:
    """The centres of the cells as (x, y) in -1..1: [cells, cells, 2]."""
    line = (np.arange(cells) + 0.5) / cells * 2 - 1
    return np.stack(np.meshgrid(line, line), -1)
