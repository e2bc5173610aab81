"""What simple features reach on a set: logistic regression, from one frame up to optical flow."""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvmae.data import subset
from cvmae.data.motion import video

_READ_AT_ONCE = 256  # clips: keeps the memory small, whatever the size of the set


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


def shuffled_difference(clips: np.ndarray) -> np.ndarray:
    """`frame_difference` of clips whose frames stand in a random order: what is left of it without the order.

    It holds no more about the class than the bag of frames does, so its accuracy is at most about that of `order_free`.
    Every clip has an order of its own, drawn by a hash of its frames: the same in every run, whatever clips come with it.
    An order drawn by the clip's number would give away the class where the classes take turns in the manifest.
    """
    seeds = [int.from_bytes(hashlib.blake2b(clip.tobytes(), digest_size=8).digest(), "big") for clip in clips]
    orders = [np.random.default_rng(seed).permutation(clips.shape[1]) for seed in seeds]
    return frame_difference(np.stack([clip[order] for clip, order in zip(clips, orders)]))


def optical_flow(clips: np.ndarray, cells: int = 4) -> np.ndarray:
    """Farneback flow of following frames, averaged over a grid of cells and over time (and its two halves)."""
    features = []
    for clip in clips:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        flow = np.stack([cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 9, 3, 5, 1.1, 0) for a, b in itertools.pairwise(grey)])
        fields = [_cells(part.mean(0), cells) for part in (flow, *np.array_split(flow, 2))]
        divergence = (fields[0] * _grid(cells)).sum(-1)
        curl = (fields[0] * _grid(cells)[..., ::-1] * (1, -1)).sum(-1)
        features.append(np.concatenate([f.ravel() for f in (*fields, divergence, curl)]))
    return np.array(features)


FEATURES = {
    "first frame": first_frame,
    "middle frame": middle_frame,
    "order-free": order_free,
    "frame-shuffled": shuffled_difference,
    "ordered frame difference": frame_difference,
    "optical flow": optical_flow,
}


def draws(labels: np.ndarray, clips: int, seeds: int) -> list[np.ndarray]:
    """The records to fit on, one int64 [clips] per seed 0, 1, ...: random, and as evenly over the classes as possible.

    Where that is all records (`clips` is 0, or not below their number), one draw of all: more would not differ.

    Args:
      labels: [n], of the training split.
      clips: number of records; 0 = all.
      seeds: number of draws.

    Raises:
      ValueError: no draw is asked for, or fewer records than there are classes.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    if seeds < 1:
        raise ValueError(f"baselines: seeds={seeds}: at least one draw of the training clips is needed")
    if clips and clips < len(names):
        raise ValueError(f"baselines: clips={clips} is fewer than the {len(names)} classes (0 means all training clips)")
    if not clips or clips >= len(labels):
        return [np.arange(len(labels))]
    shuffles = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(seeds)]
    _, part = subset.parse_split(f"train[:{clips}]")
    return [shuffle[subset.choose(numbers[shuffle], part)] for shuffle in shuffles]


def accuracies(
    manifest: str | os.PathLike[str],
    names: Iterable[str] = tuple(FEATURES),
    tolerance: float = 1e-4,
    seeds: int = 1,
    clips: int = 0,
) -> dict[str, np.ndarray]:
    """Test accuracy of logistic regression on each named feature, fitted on the training split or on draws from it.

    Features are computed once, and only of the clips that some draw holds.

    Args:
      manifest: path of the set's CSV.
      names: keys of FEATURES.
      tolerance: of the fit; 1e-2 is many times faster and moves the accuracy by a point or two.
      seeds: number of fits, each on another draw of training clips (see `draws`), each scored on all test clips.
      clips: number of training clips in a draw; 0 = all, where one fit is enough.

    Returns:
      For each name the accuracies of the fits, float64 [seeds] in 0..1; [1] where a draw is all training clips.

    Raises:
      ValueError: see `draws`.
    """
    rows, names = _rows(manifest), tuple(names)
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    train_labels, test_labels = (np.array([row["label"] for row in part]) for part in (train, test))
    drawn = draws(train_labels, clips, seeds)
    used = np.unique(np.concatenate(drawn))
    known, unknown = (_features(pathlib.Path(manifest).parent, part, names) for part in ([train[i] for i in used], test))
    result = {name: np.zeros(len(drawn)) for name in names}
    for name in names:
        for number, records in enumerate(drawn):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=tolerance))
            model.fit(known[name][np.searchsorted(used, records)], train_labels[records])
            result[name][number] = model.score(unknown[name], test_labels)
    return result


def table(manifest: str | os.PathLike[str], seeds: int = 1, clips: int = 0, **options) -> str:
    """The accuracies in per cent as lines of text, chance first. Arguments, `options` too, and errors as in `accuracies`.

    Where there are several fits: their mean ± their standard deviation (of a sample: divided by the fits less one).
    """
    rows = _rows(manifest)
    chance = 1 / len({row["label"] for row in rows})
    train, test = (sum(row["split"] == split for row in rows) for split in ("train", "test"))
    result = {"chance": np.array([chance]), **accuracies(manifest, seeds=seeds, clips=clips, **options)}
    fits = max(map(len, result.values()))
    what = f"{train} training" if not clips or clips >= train else f"{clips} of {train} training"
    spread = f", mean ± standard deviation over {fits} draws of the training clips" if fits > 1 else ""
    lines = [f"{name:26s} {_percent(values)}" for name, values in result.items()]
    return "\n".join([f"{what} and {test} test clips; accuracy on the test clips in %{spread}", *lines])


def _percent(values: np.ndarray) -> str:
    text = f"{100 * values.mean():5.1f}"
    return text if len(values) == 1 else f"{text} ± {100 * values.std(ddof=1):.1f}"


def _rows(manifest: str | os.PathLike[str]) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _features(folder: pathlib.Path, rows: list[Mapping[str, str]], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the clips of the rows and computes each named feature of them: [N, D]."""
    parts = {name: [] for name in names}
    for start in range(0, len(rows), _READ_AT_ONCE):
        clips = np.stack([video.read(folder / row["path"]) for row in rows[start : start + _READ_AT_ONCE]])
        for name, found in parts.items():
            found.append(FEATURES[name](clips))
    return {name: np.concatenate(found) for name, found in parts.items()}


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
