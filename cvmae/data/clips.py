"""Frame sampling: the frames of a clip, and the fixed size to which they are cropped and resized.

A clip that runs past the end of its video repeats the last frame. This is the only rule for short videos, in every sampling
mode except `uniform`, which never runs past the end (there all frames repeat).
"""

import dataclasses

import cv2
import numpy as np

cv2.setNumThreads(1)  # the loader runs one reader per core already

FITS = ("crop", "stretch", "pad")
SAMPLINGS = ("random", "middle", "uniform")
FRAME_SAMPLINGS = ("random", "middle", "first", "uniform")

# Seconds. Absorbs the rounding of timestamps (WebM stores milliseconds) where a given time means that of a frame.
_TIME_SLACK = 1e-3


class ClipError(Exception):
    """A clip cannot be cut out of a video."""


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Sampling and size of clips.

    Attributes:
      num_frames: T, frames of a clip.
      stride: frames from one clip frame to the next.
      fps: frames per second that the stride counts; 0: it counts the frames of the file. Above 0, clip frames are stride / fps
        seconds apart, and each is the frame that is displayed at its time.
      height, width: size in pixels, see `fit_frames`.
      fit: a word of FITS, see `fit_frames`.
      sampling: a word of SAMPLINGS: `random` start, `middle` (centered), or `uniform` (the centers of T equal segments of the
        video; ignores stride and fps).
      num_sampled: F, frames for the image branch.
      frame_sampling: a word of FRAME_SAMPLINGS, see `sample_frame_index`.
      square_pixels: True applies the aspect ratio of a file's pixels where frames are resized.
      extra: frames that a clip has beyond `num_frames`, for views that begin at different ones; none of them is sampled.
      clips: N, clips of a video that are read together, one after the other, see `clip_indices`.

    Raises:
      ValueError: a field is out of range; the message names it.
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
    square_pixels: bool = False
    extra: int = 0
    clips: int = 1

    def __post_init__(self):
        for field, choices in (("fit", FITS), ("sampling", SAMPLINGS), ("frame_sampling", FRAME_SAMPLINGS)):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, got {getattr(self, field)!r}")
        for field in ("num_frames", "stride", "height", "width", "clips"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.extra < 0:
            raise ValueError(f"extra must be 0 or more, got {self.extra}")
        if self.fps < 0:
            raise ValueError(f"fps must be 0 (use stride) or more, got {self.fps}")
        if not 0 <= self.num_sampled <= self.num_frames:
            raise ValueError(f"cannot sample {self.num_sampled} frames from a clip of {self.num_frames}")

    @property
    def length(self) -> int:
        """The number of frames that are read for a sample: of a clip, or of all that are read together."""
        return self.clips * (self.num_frames + self.extra)

    def deterministic(self) -> "ClipSpec":
        """Returns a copy for evaluation, in which every random choice is replaced by the middle one."""
        middle = {"random": "middle"}
        return dataclasses.replace(
            self,
            sampling=middle.get(self.sampling, self.sampling),
            frame_sampling=middle.get(self.frame_sampling, self.frame_sampling),
        )


@dataclasses.dataclass(frozen=True)
class ClipView:
    """Clip number `clip` of `clips` evenly spaced ones of a video, and the number of its crops; by default the middle one.

    Where a spec reads N clips together, `clip` and `clips` count such groups.

    Attributes:
      clip: from 0, see `clip_indices`.
      clips: clips per video.
      crops: crops per clip, see `fit_frames`.
    """

    clip: int = 0
    clips: int = 1
    crops: int = 1


MIDDLE = ClipView()


def spacing(number: int, count: int) -> tuple[int, int]:
    """Returns the fraction of the spare length that lies before item `number` of `count` evenly spaced ones.

    The first item has 0 and the last 1; a single one has 1/2. As (numerator, denominator), so that positions are exact.
    """
    return (number, count - 1) if count > 1 else (1, 2)


def part_of_video(times: np.ndarray, start: float | None, end: float | None) -> tuple[int, int]:
    """Returns the index of the first frame between two times, and that after the last one.

    Args:
      times: float64 [n], seconds since the first frame, ascending.
      start: seconds; None: from the first frame.
      end: seconds, excluded; None: to the last frame.

    Raises:
      ClipError: no frame lies between them.
    """
    low = 0 if start is None else int(np.searchsorted(times, start - _TIME_SLACK))
    high = len(times) if end is None else int(np.searchsorted(times, end - _TIME_SLACK))
    if low >= high:
        part = f"from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"
        raise ClipError(f"no frame {part}; the video lasts {times[-1]:.3g} s")
    return low, high


def displayed_frames(times: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Returns the index of the frame displayed at each time, the last one that is not later.

    Args:
      times: float64 [n], seconds since the first frame, ascending.
      seconds: float64 of any shape; the indices, int64, have the same.
    """
    return np.searchsorted(times, seconds + _TIME_SLACK, side="right") - 1


def clip_indices(
    spec: ClipSpec,
    times: np.ndarray,
    rng: np.random.Generator,
    start: float | None = None,
    end: float | None = None,
    view: ClipView = MIDDLE,
) -> np.ndarray:
    """Returns the source frames of one clip, int64 [`spec.length`], not decreasing within a clip.

    With `middle`, several clips start evenly spaced, the first at the beginning and the last so that it ends with the video
    (VideoMAE and mae_st on Kinetics). With `uniform`, clip c of C takes the frame at the fraction (c + 1/2) / C of each
    segment, so that clips interleave (as VideoMAE's on SSv2, whose fractions are c / C). With `random`, `view` has no effect.

    N clips that are read together stand one after the other. Those of group g of G are the clips g, g + G, ... of N G, so that each
    group is spread over the video. With `random`, each begins anywhere in its own of N equal parts of the video, and where a clip
    is longer than such a part all are evenly spaced (V-JEPA 2's segments).

    Args:
      spec: the sampling.
      times: float64 [n], seconds since the first frame, ascending.
      rng: draws the start, if `spec.sampling` is random.
      start: seconds, beginning of the part of the video to sample from; None: the first frame.
      end: seconds, end of that part, excluded; None: the last frame.
      view: number of the clip, if there are several.

    Raises:
      ClipError: the part holds no frame.
    """
    low, high = part_of_video(times, start, end)
    part = times[low:high]
    if spec.sampling == "random":
        numbers, count = range(spec.clips), spec.clips
    else:
        count = view.clips * spec.clips
        numbers = range(view.clip, count, view.clips)
    indices = np.concatenate([_clip_frames(spec, part, rng, number, count) for number in numbers])
    return low + np.minimum(indices, len(part) - 1).astype(np.int64)


def _clip_frames(spec: ClipSpec, part: np.ndarray, rng: np.random.Generator, number: int, count: int) -> np.ndarray:
    """Returns the frames of clip `number` of `count`, as indices into `part`, the times to sample from; they may run past its end."""
    steps = np.arange(spec.num_frames + spec.extra)
    (numerator, denominator), is_random = spacing(number, count), spec.sampling == "random"
    if spec.sampling == "uniform":
        return (2 * count * steps + 2 * number + 1) * len(part) // (2 * count * len(steps))
    if spec.fps > 0:
        offsets, duration = steps * (spec.stride / spec.fps), part[-1] - part[0]
        begin = duration * number / count
        room = duration * (number + 1) / count - begin - offsets[-1]
        draw = rng.random() if is_random else 0.0
        evenly = max(0.0, duration - offsets[-1]) * (numerator / denominator)
        return displayed_frames(part, part[0] + (begin + room * draw if is_random and room >= 0 else evenly) + offsets)
    span, begin = int(steps[-1]) * spec.stride, len(part) * number // count
    room = len(part) * (number + 1) // count - 1 - begin - span
    draw = int(rng.integers(max(0, room) + 1)) if is_random else 0
    evenly = max(0, len(part) - 1 - span) * numerator // denominator
    return (begin + draw if is_random and room >= 0 else evenly) + steps * spec.stride


def sample_frame_index(num_sampled: int, sampling: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Samples frames of a clip for the image branch: int32 [F] indices into the clip, ascending, without repeats.

    Args:
      num_sampled: F.
      sampling: `random`: any F of the T frames; `first`: the first F; `middle`: the F in the middle; `uniform`: the centers of
        F equal segments.
      num_frames: T.
      rng: draws the frames, if `sampling` is random.
    """
    if sampling == "random":
        indices = np.sort(rng.choice(num_frames, num_sampled, replace=False))
    elif sampling == "uniform":
        indices = (2 * np.arange(num_sampled) + 1) * num_frames // (2 * num_sampled)
    else:
        first = {"first": 0, "middle": (num_frames - num_sampled) // 2}[sampling]
        indices = first + np.arange(num_sampled)
    return indices.astype(np.int32)


def fit_frames(
    frames: np.ndarray, height: int, width: int, fit: str, crop: int = 0, crops: int = 1, pixel_aspect: float = 1.0
) -> np.ndarray:
    """Resizes uint8 [T, h, w, 3] to uint8 [T, height, width, 3], contiguous; frames of that size are returned as they are.

    Args:
      frames: RGB frames.
      height, width: target size in pixels.
      fit: `crop`: the largest part with the target's aspect ratio, resized; `stretch`: resized regardless of the aspect ratio;
        `pad`: resized to fit inside, with zeros around.
      crop: number of the crop, from 0; only with `fit="crop"`.
      crops: number of crops, evenly spaced from end to end along the side that is too long (0, 1, 2 of 3: left or top, center,
        right or bottom); 1: the center.
      pixel_aspect: width of a pixel of `frames` over its height; those of the result are square.
    """
    source_height, source_width = frames.shape[1:3]
    if (source_height, source_width) == (height, width) and (pixel_aspect == 1 or fit == "stretch"):
        return np.ascontiguousarray(frames)
    inner_height, inner_width = height, width
    if fit == "crop":
        h = max(1, min(source_height, round(source_width * pixel_aspect * height / width)))
        w = max(1, min(source_width, round(source_height * width / height / pixel_aspect)))
        numerator, denominator = spacing(crop, crops)
        y, x = (source_height - h) * numerator // denominator, (source_width - w) * numerator // denominator
        frames = frames[:, y : y + h, x : x + w]
    elif fit == "pad":
        inner_height = max(1, min(height, round(source_height * width / source_width / pixel_aspect)))
        inner_width = max(1, min(width, round(source_width * pixel_aspect * height / source_height)))
    out = np.zeros((len(frames), height, width, 3), np.uint8)
    y, x = (height - inner_height) // 2, (width - inner_width) // 2
    # Bilinear interpolation aliases when it shrinks by more than half; area averaging does not.
    shrinks = inner_height * inner_width < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    for source, target in zip(frames, out):
        inner = cv2.resize(np.ascontiguousarray(source), (inner_width, inner_height), interpolation=method)
        target[y : y + inner_height, x : x + inner_width] = inner
    return out
