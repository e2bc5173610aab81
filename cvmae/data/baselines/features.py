"""Features of clips for simple baselines: from a single frame up to optical flow. Each takes uint8 [N, T, H, W, 3]."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import cv2
import numpy as np


def middle_frame(clips: np.ndarray, side: int = 32) -> np.ndarray:
    """Returns the middle frame: uint8 [N, T, H, W, 3] -> float32 [N, side*side*3] in 0..1."""
    return _small(clips[:, clips.shape[1] // 2 :][:, :1], side).reshape(len(clips), -1)


def first_frame(clips: np.ndarray, side: int = 32) -> np.ndarray:
    """Returns the first frame: uint8 [N, T, H, W, 3] -> float32 [N, side*side*3] in 0..1.

    The positions at the start reveal some classes, but only if the order of the frames is known.
    """
    return _small(clips[:, :1], side).reshape(len(clips), -1)


def ordered_frames(clips: np.ndarray, side: int = 16) -> np.ndarray:
    """Returns all frames, in order: uint8 [N, T, H, W, 3] -> float32 [N, T*side*side*3] in 0..1."""
    return _small(clips, side).reshape(len(clips), -1)


def order_free(clips: np.ndarray, side: int = 32) -> np.ndarray:
    """Returns mean and standard deviation of every pixel over time, which do not depend on the order of frames.

    uint8 [N, T, H, W, 3] -> float32 [N, side*side*6] in 0..1.
    """
    small = _small(clips, side)
    return np.concatenate([small.mean(1), small.std(1)], -1).reshape(len(clips), -1)


def frame_difference(clips: np.ndarray, side: int = 16) -> np.ndarray:
    """Returns the absolute differences of consecutive gray frames, in order.

    uint8 [N, T, H, W, 3] -> float32 [N, (T-1)*side*side] in 0..1.
    """
    gray = _small(clips, side).mean(-1)
    return np.abs(np.diff(gray, axis=1)).reshape(len(clips), -1)


def shuffled_difference(clips: np.ndarray, side: int = 16) -> np.ndarray:
    """Returns `frame_difference` of the clips with their frames in a random order.

    It has no more information about the class than the unordered frames, so its accuracy is at most about that of
    `order_free`. The order of each clip is drawn by a hash of its frames: the same in every run, whatever other clips there
    are. An order drawn by the clip's number would reveal the class where classes alternate in the manifest.
    """
    seeds = [int.from_bytes(hashlib.blake2b(clip.tobytes(), digest_size=8).digest(), "big") for clip in clips]
    orders = [np.random.default_rng(seed).permutation(clips.shape[1]) for seed in seeds]
    return frame_difference(np.stack([clip[order] for clip, order in zip(clips, orders)]), side)


def optical_flow(clips: np.ndarray, side: int = 0, cells: int = 4) -> np.ndarray:
    """Returns Farneback flow of consecutive frames, averaged over a grid of cells and over time (all, and each half).

    The components along and across the direction from the center (divergence and curl) are appended.

    Args:
      clips: uint8 [N, T, H, W, 3].
      side: of the frames that the flow is computed from; 0: as they are.
      cells: number of cells on each axis.

    Returns:
      float [N, 8*cells*cells], in pixels per frame.
    """
    features = []
    for clip in clips:
        shrunk = [cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in clip] if side else clip
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in shrunk]
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


FEATURES: dict[str, Callable[..., np.ndarray]] = {
    "first frame": first_frame,
    "middle frame": middle_frame,
    "order-free": order_free,
    "frame-shuffled": shuffled_difference,
    "ordered frame difference": frame_difference,
    "ordered frames": ordered_frames,
    "optical flow": optical_flow,
}


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
