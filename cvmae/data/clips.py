"""Which frames make a clip, and the fixed shape they are cut to.

Padding rule: a clip that runs past the end of its video repeats the last frame. That is the one rule for short videos, in
every sampling mode but `uniform`, which never runs past the end (it repeats frames throughout instead).
"""

import dataclasses

import cv2
import numpy as np

cv2.setNumThreads(1)  # the loader runs one reader per core already

FITS = ("crop", "stretch", "pad")
SAMPLINGS = ("random", "middle", "uniform")
FRAME_SAMPLINGS = ("random", "middle", "first", "uniform")

# Absorbs the rounding of timestamps (WebM keeps milliseconds) when a time is meant to be that of a frame.
_TIME_SLACK = 1e-3


class ClipError(Exception):
    """A clip cannot be cut out of a video."""


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a clip is cut.

    num_frames: T. stride: frames from one clip frame to the next.
    fps: 0: the stride counts the file's own frames. Above 0: it counts frames at this rate, whatever the file's: clip
      frames are stride / fps seconds apart, and each is the frame on show at its time.
    height, width, fit: the shape, see fit_frames.
    sampling: `random` start, `middle` (centered), or `uniform` (the centers of T equal segments of the whole video; stride
      and fps are not used).
    num_sampled, frame_sampling: F and how the image branch's frames are taken, see sample_frame_index.
    """

    num_frames: int
    stride: int
    fps: float
    height: int
    width: int
    fit: str
    sampling: str
    num_sampled: int
    frame_sampling: str

    def __post_init__(self):
        for field, choices in (("fit", FITS), ("sampling", SAMPLINGS), ("frame_sampling", FRAME_SAMPLINGS)):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {getattr(self, field)!r}")
        for field in ("num_frames", "stride", "height", "width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.fps < 0:
            raise ValueError(f"fps must be 0 (use stride) or more, got {self.fps}")
        if not 0 <= self.num_sampled <= self.num_frames:
            raise ValueError(f"cannot sample {self.num_sampled} frames from a clip of {self.num_frames}")

    def deterministic(self) -> "ClipSpec":
        """The same clip with every random choice put in the middle, for evaluation."""
        middle = {"random": "middle"}
        return dataclasses.replace(
            self,
            sampling=middle.get(self.sampling, self.sampling),
            frame_sampling=middle.get(self.frame_sampling, self.frame_sampling),
        )


@dataclasses.dataclass(frozen=True)
class ClipView:
    """Which of several evenly spread clips, and crops of them, are wanted of a video; the default is the one in the middle.

    clip, clips: the clip with this number, of so many, see clip_indices. crops: how many crops, see fit_frames.
    """

    clip: int = 0
    clips: int = 1
    crops: int = 1


MIDDLE = ClipView()


def spread(number: int, count: int) -> tuple[int, int]:
    """Where the thing with this number, of `count` from end to end, stands: a share of the spare room, as (n, d) for n / d."""
    return (number, count - 1) if count > 1 else (1, 2)


def part_of_video(times: np.ndarray, start: float | None, end: float | None) -> tuple[int, int]:
    """The frames from `start` to before `end` (seconds, None is open): the first, and the one after the last.

    times: float64 [n], seconds since the first frame, ascending. Raises: ClipError if there is none.
    """
    low = 0 if start is None else int(np.searchsorted(times, start - _TIME_SLACK))
    high = len(times) if end is None else int(np.searchsorted(times, end - _TIME_SLACK))
    if low >= high:
        part = f"from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"
        raise ClipError(f"no frame {part}; the video lasts {times[-1]:.3g} s")
    return low, high


def frames_on_show(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The frame on show at each moment (seconds): the last one that is not later; int64 [k]."""
    return np.searchsorted(times, moments + _TIME_SLACK, side="right") - 1


def clip_indices(
    spec: ClipSpec,
    times: np.ndarray,
    rng: np.random.Generator,
    start: float | None = None,
    end: float | None = None,
    view: ClipView = MIDDLE,
) -> np.ndarray:
    """Source frames of one clip: int64 [T], not decreasing.

    times: float64 [n], seconds since the first frame, ascending. start, end: seconds, the part of the video to stay in
    (end excluded; None: open). view: which clip. With `middle` several clips start evenly spaced, the first at the beginning
    and the last so that it ends with the video (VideoMAE and mae_st on Kinetics). With `uniform` clip c of C takes the frame
    at the share (c + 1/2) / C of each segment, so that clips interleave (as VideoMAE's on SSv2, whose shares are c / C).
    `random` draws, whatever the view. Raises: ClipError if the part holds no frame.
    """
    low, high = part_of_video(times, start, end)
    part = times[low:high]
    steps = np.arange(spec.num_frames)
    share, whole = spread(view.clip, view.clips)
    if spec.sampling == "uniform":
        inside = (2 * view.clips * steps + 2 * view.clip + 1) * len(part) // (2 * view.clips * spec.num_frames)
    elif spec.fps > 0:
        offsets = steps * (spec.stride / spec.fps)
        spare = max(0.0, part[-1] - part[0] - offsets[-1])
        begin = part[0] + spare * (rng.random() if spec.sampling == "random" else share / whole)
        inside = frames_on_show(part, begin + offsets)
    else:
        spare = max(0, len(part) - 1 - int(steps[-1]) * spec.stride)
        begin = int(rng.integers(spare + 1)) if spec.sampling == "random" else spare * share // whole
        inside = begin + steps * spec.stride
    return low + np.minimum(inside, len(part) - 1).astype(np.int64)


def sample_frame_index(num_sampled: int, sampling: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """The image branch's frames, as places inside the clip: int32 [F], ascending, no place twice.

    `random`: any F of the T; `first`: the first F; `middle`: the F in the middle; `uniform`: the centers of F equal segments.
    """
    if sampling == "random":
        places = np.sort(rng.choice(num_frames, num_sampled, replace=False))
    elif sampling == "uniform":
        places = (2 * np.arange(num_sampled) + 1) * num_frames // (2 * num_sampled)
    else:
        first = {"first": 0, "middle": (num_frames - num_sampled) // 2}[sampling]
        places = first + np.arange(num_sampled)
    return places.astype(np.int32)


def fit_frames(frames: np.ndarray, height: int, width: int, fit: str, crop: int = 0, crops: int = 1) -> np.ndarray:
    """uint8 [T, h, w, 3] -> uint8 [T, height, width, 3], contiguous.

    `crop`: the largest central part of the right proportions, resized; `stretch`: resized regardless of proportions;
    `pad`: resized to fit inside, zeros around it. Frames that have the size already are not touched.
    crop, crops: with `crop`, the part with this number of so many, evenly spaced from end to end along the side that is too
    long (0, 1, 2 of 3: left or top, center, right or bottom).
    """
    source_height, source_width = frames.shape[1:3]
    if (source_height, source_width) == (height, width):
        return np.ascontiguousarray(frames)
    inner_height, inner_width = height, width
    if fit == "crop":
        h = max(1, min(source_height, round(source_width * height / width)))
        w = max(1, min(source_width, round(source_height * width / height)))
        share, whole = spread(crop, crops)
        y, x = (source_height - h) * share // whole, (source_width - w) * share // whole
        frames = frames[:, y : y + h, x : x + w]
    elif fit == "pad":
        inner_height = max(1, min(height, round(source_height * width / source_width)))
        inner_width = max(1, min(width, round(source_width * height / source_height)))
    out = np.zeros((len(frames), height, width, 3), np.uint8)
    y, x = (height - inner_height) // 2, (width - inner_width) // 2
    # Bilinear interpolation aliases when it shrinks by more than half; averaging areas does not.
    shrinking = inner_height * inner_width < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    for source, target in zip(frames, out):
        inner = cv2.resize(np.ascontiguousarray(source), (inner_width, inner_height), interpolation=method)
        target[y : y + inner_height, x : x + inner_width] = inner
    return out
