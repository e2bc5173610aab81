"""Accuracy of simple baselines on a set: logistic regression on features from a single frame up to optical flow."""

from __future__ import annotations

import csv
import fractions
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvmae.data import subset
from cvmae.data.motion import video

_READ_AT_ONCE = 256  # clips: keeps the memory small, whatever the size of the set


def middle_frame(clips: np.ndarray) -> np.ndarray:
    """Returns the middle frame at 32x32: uint8 [N, T, H, W, 3] -> float32 [N, 32*32*3] in 0..1."""
    return _small(clips[:, clips.shape[1] // 2 :][:, :1], 32).reshape(len(clips), -1)


def first_frame(clips: np.ndarray) -> np.ndarray:
    """Returns the first frame at 32x32: uint8 [N, T, H, W, 3] -> float32 [N, 32*32*3] in 0..1.

    The positions at the start reveal some classes, but only if the order of the frames is known.
    """
    return _small(clips[:, :1], 32).reshape(len(clips), -1)


def order_free(clips: np.ndarray) -> np.ndarray:
    """Returns mean and standard deviation of every pixel over time at 32x32, which do not depend on the order of frames.

    uint8 [N, T, H, W, 3] -> float32 [N, 32*32*6] in 0..1.
    """
    small = _small(clips, 32)
    return np.concatenate([small.mean(1), small.std(1)], -1).reshape(len(clips), -1)


def frame_difference(clips: np.ndarray) -> np.ndarray:
    """Returns the absolute differences of consecutive gray frames at 16x16, in order.

    uint8 [N, T, H, W, 3] -> float32 [N, (T-1)*16*16] in 0..1.
    """
    gray = _small(clips, 16).mean(-1)
    return np.abs(np.diff(gray, axis=1)).reshape(len(clips), -1)


def shuffled_difference(clips: np.ndarray) -> np.ndarray:
    """Returns `frame_difference` of the clips with their frames in a random order.

    It has no more information about the class than the unordered frames, so its accuracy is at most about that of
    `order_free`. The order of each clip is drawn by a hash of its frames: the same in every run, whatever other clips there
    are. An order drawn by the clip's number would reveal the class, since classes alternate in the manifest.
    """
    seeds = [int.from_bytes(hashlib.blake2b(clip.tobytes(), digest_size=8).digest(), "big") for clip in clips]
    orders = [np.random.default_rng(seed).permutation(clips.shape[1]) for seed in seeds]
    return frame_difference(np.stack([clip[order] for clip, order in zip(clips, orders)]))


def optical_flow(clips: np.ndarray, cells: int = 4) -> np.ndarray:
    """Returns Farneback flow of consecutive frames, averaged over a grid of cells and over time (all, and each half).

    The components along and across the direction from the center (divergence and curl) are appended.

    Args:
      clips: uint8 [N, T, H, W, 3].
      cells: number of cells on each axis.

    Returns:
      float [N, 8*cells*cells], in pixels per frame.
    """
    features = []
    for clip in clips:
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        flow = np.stack([_farneback(first, second) for first, second in itertools.pairwise(gray)])
        fields = [_cells(part.mean(0), cells) for part in (flow, *np.array_split(flow, 2))]
        divergence = (fields[0] * _grid(cells)).sum(-1)
        curl = (fields[0] * _grid(cells)[..., ::-1] * (1, -1)).sum(-1)
        features.append(np.concatenate([f.ravel() for f in (*fields, divergence, curl)]))
    return np.array(features)


def _farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the flow from one gray frame, uint8 [H, W], to the next: float32 [H, W, 2], in pixels."""
    flow = np.empty((*first.shape, 2), np.float32)  # OpenCV takes None too, but its types do not
    return cv2.calcOpticalFlowFarneback(first, second, flow, 0.5, 3, 9, 3, 5, 1.1, 0)


FEATURES = {
    "first frame": first_frame,
    "middle frame": middle_frame,
    "order-free": order_free,
    "frame-shuffled": shuffled_difference,
    "ordered frame difference": frame_difference,
    "optical flow": optical_flow,
}


def draws(labels: np.ndarray, clips: int, seeds: int) -> list[np.ndarray]:
    """Draws the records to fit on, randomly and as evenly over the classes as possible, once for each seed 0, 1, ...

    If all records are to be used (`clips` is 0, or not below their number), there is one draw, since others would be equal.

    Args:
      labels: [N], of the training split.
      clips: number of records in a draw; 0 = all.
      seeds: number of draws.

    Returns:
      Indices of records, int64 [clips], for each draw.

    Raises:
      ValueError: `seeds` is below 1, or `clips` is below the number of classes.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    if seeds < 1:
        raise ValueError(f"baselines: seeds={seeds}: at least one draw of the training clips is needed")
    if clips and clips < len(names):
        raise ValueError(f"baselines: clips={clips} is fewer than the {len(names)} classes (0 means all training clips)")
    if not clips or clips >= len(labels):
        return [np.arange(len(labels))]
    shuffles = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(seeds)]
    part = subset.Slice("train", fractions.Fraction(0), fractions.Fraction(clips), percent=False)
    return [shuffle[subset.choose(numbers[shuffle], part)] for shuffle in shuffles]


def accuracies(
    manifest: str | os.PathLike[str],
    names: Iterable[str] = tuple(FEATURES),
    tolerance: float = 1e-4,
    seeds: int = 1,
    clips: int = 0,
) -> dict[str, np.ndarray]:
    """Returns the test accuracy of logistic regression on each named feature, fitted on the training split or draws of it.

    Features are computed once, and only for clips that are in some draw.

    Args:
      manifest: path of the set's CSV.
      names: keys of FEATURES.
      tolerance: of the fit; 1e-2 is many times faster and changes the accuracy by one or two points.
      seeds: number of fits, each on another draw of training clips (see `draws`) and scored on all test clips.
      clips: number of training clips in a draw; 0 = all, in one fit.

    Returns:
      The accuracies of the fits by name, float64 [seeds] in 0..1; [1] if a draw has all training clips.

    Raises:
      ValueError: see `draws`.
    """
    rows, names = _rows(manifest), tuple(names)
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    train_labels, test_labels = (np.array([row["label"] for row in split_rows]) for split_rows in (train, test))
    drawn = draws(train_labels, clips, seeds)
    used = np.unique(np.concatenate(drawn))
    folder = pathlib.Path(manifest).parent
    train_features, test_features = (_features(folder, split_rows, names) for split_rows in ([train[i] for i in used], test))
    result = {name: np.zeros(len(drawn)) for name in names}
    for name in names:
        for number, records in enumerate(drawn):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=tolerance))
            model.fit(train_features[name][np.searchsorted(used, records)], train_labels[records])
            result[name][number] = model.score(test_features[name], test_labels)
    return result


def table(manifest: str | os.PathLike[str], seeds: int = 1, clips: int = 0, **options) -> str:
    """Returns the accuracies in percent as lines of text, chance first.

    For several fits, the mean ± the standard deviation (of a sample: divided by the number of fits less one). Arguments,
    `options` included, and errors are those of `accuracies`.
    """
    rows = _rows(manifest)
    chance = 1 / len({row["label"] for row in rows})
    train, test = (sum(row["split"] == split for row in rows) for split in ("train", "test"))
    result = {"chance": np.array([chance]), **accuracies(manifest, seeds=seeds, clips=clips, **options)}
    fits = max(map(len, result.values()))
    fitted = f"{train} training" if not clips or clips >= train else f"{clips} of {train} training"
    spread = f", mean ± standard deviation over {fits} draws of the training clips" if fits > 1 else ""
    lines = [f"{name:26s} {_percent(values)}" for name, values in result.items()]
    return "\n".join([f"{fitted} and {test} test clips; accuracy on the test clips in %{spread}", *lines])


def _percent(values: np.ndarray) -> str:
    text = f"{100 * values.mean():5.1f}"
    return text if len(values) == 1 else f"{text} ± {100 * values.std(ddof=1):.1f}"


def _rows(manifest: str | os.PathLike[str]) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _features(folder: pathlib.Path, rows: Sequence[Mapping[str, str]], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the clips of the rows and computes their features, [N, D] for each name."""
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in range(0, len(rows), _READ_AT_ONCE):
        clips = np.stack([video.read(folder / row["path"]) for row in rows[start : start + _READ_AT_ONCE]])
        for name in chunks:
            chunks[name].append(FEATURES[name](clips))
    return {name: np.concatenate(features) for name, features in chunks.items()}


def _small(clips: np.ndarray, side: int) -> np.ndarray:
    """Shrinks uint8 [N, T, H, W, 3] to float32 [N, T, side, side, 3] in 0..1."""
    small = [[cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in clip] for clip in clips]
    return np.asarray(small, np.float32) / 255


def _cells(flow: np.ndarray, cells: int) -> np.ndarray:
    """Averages float [H, W, 2] over a grid: [cells, cells, 2]."""
    return cv2.resize(flow, (cells, cells), interpolation=cv2.INTER_AREA)


def _grid(cells: int) -> np.ndarray:
    """Returns the centers of the cells as (x, y) in -1..1: float64 [cells, cells, 2]."""
    line = (np.arange(cells) + 0.5) / cells * 2 - 1
    return np.stack(np.meshgrid(line, line), -1)
