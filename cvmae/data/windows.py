"""Sliding windows over whole videos of any length, read one after the other.

Of a video only the frames of the windows at hand are in memory; what grows with its length is its frame table, some 200 bytes a
frame at most.
"""

import dataclasses
import itertools
import math
import queue
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from cvmae.data import clips, decode
from cvmae.data.pipeline import ARRAY_FPS, UnreadableError, clip_spec, unreadable
from cvmae.data.sources import Record, Source
from cvmae.data.timeout import call_with_limit


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of a video.

    frames: int64 [n, T], numbers of source frames. start_s, end_s: float64 [n], when the first and the last frame of each is
    shown, in seconds since the first frame of the file.
    """

    frames: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def __len__(self):
        return len(self.frames)


def plan_windows(
    spec: clips.ClipSpec, times: np.ndarray, window_stride: int, start: float | None = None, end: float | None = None
) -> Windows:
    """Windows of T frames at the spec's stride and fps, whatever its sampling.

    A window starts `window_stride` clip frames after the one before (0: T, so that windows do not overlap). The last is moved
    back to end with the video, so it may overlap more. A video that is shorter than a window gives one, which repeats the last
    frame.

    times: float64 [n], seconds since the first frame, ascending. start, end: seconds, the part to stay in (None is open).
    Raises: ClipError if the part holds no frame; ValueError for a negative stride.
    """
    if window_stride < 0:
        raise ValueError(f"window_stride must be 0 (windows do not overlap) or more, got {window_stride}")
    low, high = clips.part_of_video(times, start, end)
    part, steps, hop = times[low:high], np.arange(spec.num_frames), window_stride or spec.num_frames
    if spec.fps > 0:
        step = spec.stride / spec.fps
        begins = part[0] + _starts(part[-1] - part[0] - steps[-1] * step, hop * step)
        inside = clips.frames_on_show(part, begins[:, None] + steps * step)
    else:
        begins = _starts(len(part) - 1 - steps[-1] * spec.stride, hop * spec.stride)
        inside = begins.astype(np.int64)[:, None] + steps * spec.stride
    frames = low + np.minimum(inside, len(part) - 1)
    return Windows(frames, times[frames[:, 0]], times[frames[:, -1]])


def _starts(spare: float, hop: float) -> np.ndarray:
    """0, hop, 2 hop, ... below `spare`, and `spare`; 0 alone where there is none to spare. float64 [n]."""
    if spare <= 0:
        return np.zeros(1)
    # A little less than spare / hop: a multiple that rounding puts just below the end is the last window itself.
    return np.append(hop * np.arange(math.ceil(spare / hop - 1e-6)), spare)


def open_windows(record: Record, spec: clips.ClipSpec, window_stride: int) -> tuple[Windows, Iterator[np.ndarray]]:
    """The windows of a record, and their frames in order, each uint8 [T, H0, W0, 3].

    Opens the file once and decodes every wanted frame once. Raises: ClipError, DecodeError; the iterator as well.
    """
    planned = []

    def choose(times):
        planned.append(plan_windows(spec, times, window_stride, record.start, record.end))
        return np.unique(planned[0].frames)

    if isinstance(record.payload, np.ndarray):
        video = record.payload
        frames = ((int(number), video[number]) for number in choose(np.arange(len(video)) / ARRAY_FPS))
    else:
        frames = decode.stream_chosen(record.payload, lambda table: choose(table.times))
        frames = itertools.chain([next(frames)], frames)  # the table is read with the first frame
    return planned[0], _assemble(planned[0], frames, spec)


def _assemble(windows: Windows, frames: Iterator[tuple[int, np.ndarray]], spec: clips.ClipSpec) -> Iterator[np.ndarray]:
    """The windows, out of numbered frames in ascending order."""
    held = {}
    for wanted in windows.frames:
        held = {number: frame for number, frame in held.items() if number >= wanted[0]}
        while wanted[-1] not in held:
            number, frame = next(frames)
            [held[number]] = clips.fit_frames(frame[None], spec.height, spec.width, spec.fit)
        yield np.stack([held[number] for number in wanted.tolist()])


@dataclasses.dataclass(frozen=True)
class Opened:
    """The windows of record `number`; as many `Window`s of it follow, or fewer and a `Failed`."""

    number: int
    label: int
    windows: Windows


@dataclasses.dataclass(frozen=True)
class Window:
    """The next window of record `number`, uint8 [T, H0, W0, 3]."""

    number: int
    video: np.ndarray


@dataclasses.dataclass(frozen=True)
class Failed:
    """Record `number` cannot be read, or not further."""

    number: int
    name: str
    reason: str


class WindowLoader:
    """Iterator over `Opened`, `Window` and `Failed` of records, read ahead by threads, each on a video of its own.

    What is said of one record comes in order; records mix. There are data.workers × data.threads threads, at least one (decoding
    does not hold Python's lock), and they read up to data.prefetch batches ahead. data.timeout_s is the limit of each window, and
    of opening a video and reading its table.
    """

    def __init__(self, config, source: Source, numbers: Iterable[int], batch_size: int, window_stride: int):
        data = config.data
        self._source, self._spec, self._window_stride = source, clip_spec(config), window_stride
        self._numbers, self._lock, self._timeout_s = iter(numbers), threading.Lock(), data.timeout_s
        self._events = queue.Queue(batch_size * max(1, data.prefetch))
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
            if isinstance(event, Exception):
                raise event
            if event is not None:
                return event
            self._running -= 1
        raise StopIteration

    def close(self):
        """Ends the threads, each as soon as it has its next window."""
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
        except Exception as error:  # handed over to the caller, who raises it
            self._put(error)
        self._put(None)

    def _next_number(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _put(self, event) -> bool:
        """Waits for room; False if the loader was closed."""
        while not self._stopping.is_set():
            try:
                self._events.put(event, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _read(self, number: int) -> Iterator[Opened | Window | Failed]:
        record = self._source[number]

        def limited(call):
            with unreadable(record.name):
                return call_with_limit(call, self._timeout_s)

        try:
            windows, videos = limited(lambda: open_windows(record, self._spec, self._window_stride))
            yield Opened(number, record.label, windows)
            for _ in range(len(windows)):
                yield Window(number, limited(lambda: next(videos)))
        except UnreadableError as error:
            yield Failed(number, *error.args)
