"""Sliding windows over videos of any length, read sequentially.

Only the frames of the current windows are in memory. What grows with the length of a video is its frame table, at most about
200 bytes per frame.
"""

import dataclasses
import itertools
import math
import queue
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from cvmae.data import clips, decode
from cvmae.data.pipeline import ARRAY_FPS, clip_spec, unreadable
from cvmae.data.records import Record, Source, UnreadableError
from cvmae.data.stamps import Stamps, VideoStamp
from cvmae.data.timeout import call_with_limit


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of a video.

    Attributes:
      frames: int64 [n, T], indices of source frames.
      start_s: float64 [n], display time of the first frame of each window, in seconds since the first frame of the file.
      end_s: float64 [n], display time of the last frame of each window.
      regular: number of the first windows that start at a multiple of the window stride: all, or all but the last.
    """

    frames: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    regular: int

    def __len__(self):
        return len(self.frames)


def plan_windows(
    spec: clips.ClipSpec, times: np.ndarray, window_stride: int, start: float | None = None, end: float | None = None
) -> Windows:
    """Lays windows of T frames over a video, at the stride and fps of `spec` (its `sampling` is ignored).

    The last window is moved back to end with the video, so it may overlap more. A video that is shorter than a window gives
    one, which repeats the last frame.

    Args:
      spec: the stride and fps within a window.
      times: float64 [n], seconds since the first frame, ascending.
      window_stride: clip frames from the start of one window to that of the next; 0: T, so that windows do not overlap.
      start: seconds, beginning of the part of the video to use; None: the first frame.
      end: seconds, end of that part, excluded; None: the last frame.

    Raises:
      ClipError: the part holds no frame.
      ValueError: window_stride is negative.
    """
    if window_stride < 0:
        raise ValueError(f"window_stride must be 0 (windows do not overlap) or more, got {window_stride}")
    low, high = clips.part_of_video(times, start, end)
    part, steps, hop = times[low:high], np.arange(spec.num_frames), window_stride or spec.num_frames
    if spec.fps > 0:
        step = spec.stride / spec.fps
        starts = _starts(part[-1] - part[0] - steps[-1] * step, hop * step)
        indices = clips.displayed_frames(part, part[0] + starts[:, None] + steps * step)
    else:
        step = spec.stride
        starts = _starts(len(part) - 1 - steps[-1] * step, hop * step)
        indices = starts.astype(np.int64)[:, None] + steps * step
    frames = low + np.minimum(indices, len(part) - 1)
    last = len(starts) - 1
    regular = last + bool(abs(starts[-1] - last * hop * step) <= 1e-6 * hop * step)
    return Windows(frames, times[frames[:, 0]], times[frames[:, -1]], regular)


def _starts(spare: float, hop: float) -> np.ndarray:
    """Returns 0, hop, 2 hop, ... below `spare`, and then `spare`; only 0 if nothing is spare. float64 [n]."""
    if spare <= 0:
        return np.zeros(1)
    # Slightly less than spare / hop: a multiple of hop that rounding puts just below `spare` is the last window itself.
    return np.append(hop * np.arange(math.ceil(spare / hop - 1e-6)), spare)


def open_windows(record: Record, spec: clips.ClipSpec, window_stride: int) -> tuple[Windows, Iterator[np.ndarray]]:
    """Returns the windows of a record, and an iterator over their frames in order, each uint8 [T, H0, W0, 3].

    Opens the file once and decodes every frame once.

    Raises:
      ClipError: the record's part of the video holds no frame.
      DecodeError: the file cannot be read; the iterator may raise it too.
    """
    planned: list[Windows] = []
    aspect = 1.0

    def choose_from(table):
        nonlocal aspect
        aspect = table.pixel_aspect if spec.square_pixels else 1.0
        return choose(table.times)

    def choose(times):
        planned.append(plan_windows(spec, times, window_stride, record.start, record.end))
        return np.unique(planned[0].frames)

    frames: Iterator[tuple[int, np.ndarray]]
    if isinstance(record.payload, np.ndarray):
        video = record.payload
        frames = ((int(number), video[number]) for number in choose(np.arange(len(video)) / ARRAY_FPS))
    else:
        frames = decode.stream_chosen(record.payload, choose_from)
        frames = itertools.chain([next(frames)], frames)  # the table is read with the first frame
    return planned[0], _assemble(planned[0], frames, spec, aspect)


def _assemble(windows: Windows, frames: Iterator[tuple[int, np.ndarray]], spec: clips.ClipSpec, aspect: float):
    """Yields the windows, from (index, frame) pairs in ascending order."""
    buffer: dict[int, np.ndarray] = {}
    for indices in windows.frames:
        buffer = {index: frame for index, frame in buffer.items() if index >= indices[0]}
        while indices[-1] not in buffer:
            index, frame = next(frames)
            [buffer[index]] = clips.fit_frames(frame[None], spec.height, spec.width, spec.fit, pixel_aspect=aspect)
        yield np.stack([buffer[index] for index in indices.tolist()])


@dataclasses.dataclass(frozen=True)
class Opened:
    """Event: record `number` was opened; as many `Window`s of it follow as it has windows, or fewer and a `Failed`.

    The stamp is that of before it was opened, so that a video that is replaced meanwhile has another one afterwards.
    """

    number: int
    label: int
    windows: Windows
    stamp: VideoStamp | None


@dataclasses.dataclass(frozen=True)
class Window:
    """Event: the next window of record `number`, uint8 [T, H0, W0, 3]."""

    number: int
    video: np.ndarray


@dataclasses.dataclass(frozen=True)
class Failed:
    """Event: record `number` cannot be read, or its remaining windows cannot."""

    number: int
    name: str
    reason: str


class WindowLoader:
    """Iterator over the events `Opened`, `Window` and `Failed` of records, read ahead by threads, one video per thread.

    The events of one record come in order; those of different records interleave. There are data.workers × data.threads threads,
    at least one (decoding releases Python's lock), which read up to data.prefetch batches ahead. data.timeout_s limits each
    window, and opening a video and reading its frame table.

    Args:
      config: the config; `data` and the fields of `clip_spec` are used.
      source: the records.
      numbers: indices of the records to read.
      batch_size: windows of a batch, the unit of data.prefetch.
      window_stride: see `plan_windows`.
      stamps: those of the source; None for new ones.
    """

    def __init__(
        self,
        config,
        source: Source,
        numbers: Iterable[int],
        batch_size: int,
        window_stride: int,
        stamps: Stamps | None = None,
    ):
        data, self._stamps = config.data, stamps or Stamps(source)
        self._source, self._spec, self._window_stride = source, clip_spec(config), window_stride
        self._numbers, self._lock, self._timeout_s = iter(numbers), threading.Lock(), data.timeout_s
        self._events: queue.Queue[Opened | Window | Failed | BaseException | None] = queue.Queue(
            batch_size * max(1, data.prefetch)
        )
        self._stopping = threading.Event()
        self._running = max(1, data.workers) * max(1, data.threads)
        self._threads = [threading.Thread(target=self._work, daemon=True, name="cvmae-windows") for _ in range(self._running)]
        for thread in self._threads:
            thread.start()

    def __iter__(self):
        return self

    def __next__(self) -> Opened | Window | Failed:
        while self._running:
            event = self._events.get()
            if isinstance(event, BaseException):
                raise event
            if event is not None:
                return event
            self._running -= 1
        raise StopIteration

    def close(self):
        """Ends the threads, each as soon as it has read its next window."""
        self._stopping.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _work(self):
        try:
            while (number := self._next_number()) is not None:
                for event in self._read(number):
                    if not self._put(event):
                        return
        except BaseException as error:  # a thread that a source's SystemExit ended alone would leave __next__ waiting
            self._put(error)
        self._put(None)

    def _next_number(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _put(self, event) -> bool:
        """Waits for room in the queue; returns False if the loader was closed meanwhile."""
        while not self._stopping.is_set():
            try:
                self._events.put(event, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _read(self, number: int) -> Iterator[Opened | Window | Failed]:
        def call_limited(fn):
            with unreadable(record):
                return call_with_limit(fn, self._timeout_s)

        try:
            record = self._source[number]
            stamp = call_limited(lambda: self._stamps.of(number, record))
            windows, videos = call_limited(lambda: open_windows(record, self._spec, self._window_stride))
            yield Opened(number, record.label, windows, stamp)
            for _ in range(len(windows)):
                yield Window(number, call_limited(lambda: next(videos)))
        except UnreadableError as error:
            yield Failed(number, *error.args)
