"""Exact frames out of a video file, by PyAV.

Every frame asked for is the frame that a player shows at that place: bit-equal to decoding the whole file and counting.
The work is less than that: decoding starts at the keyframe before the first wanted frame, leaves out frames that
nothing wanted refers to, and stops at the last wanted one. Pixels are square here (a sample aspect ratio is not applied).
"""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from cvmae.data.frame_table import FrameTable, packets_of, table_from_count, table_from_packets

# Codecs whose decoders skip non-reference frames exactly and gain by it (a quarter of the time and more).
_SKIPPING = frozenset({"h264", "hevc"})

# A title in some old encoding is no reason to refuse a video. PyAV 19 is tolerant by itself and knows the option no more.
_TOLERANT = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}

# Codecs whose packets may hold no picture: DivX and Xvid have such, and the frame before stays, as on a screen.
_HOLDING = frozenset({"mpeg4", "msmpeg4v2", "msmpeg4v3"})

_local = threading.local()


class DecodeError(Exception):
    """A video cannot be read: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both are arguments, so that the error survives a pickle
        self.name, self.reason = name, reason

    def __str__(self):
        return f"{self.name}: {self.reason}"


def read_table(source: str | bytes) -> FrameTable:
    """The frame table of a video, given as a path or as the bytes of an encoded file. Raises: DecodeError."""
    with _reading(source) as video:
        return video.table()


def read_frames(source: str | bytes, indices, *, table: FrameTable | None = None) -> np.ndarray:
    """Frames by number: uint8 [T, H, W, 3], RGB, upright, in the order of `indices` (repeats allowed).

    source: a path, or the bytes of an encoded file. indices: int [T], places in the frame table.
    table: the file's table if it is known already. Raises: DecodeError.
    """
    with _reading(source) as video:
        return video.frames(table or video.table(), np.asarray(indices, np.int64))


def read_chosen(source: str | bytes, choose: Callable[[FrameTable], np.ndarray]) -> np.ndarray:
    """As read_frames, with the indices chosen from the table; opens the file once. choose: table -> int [T]."""
    with _reading(source) as video:
        table = video.table()
        return video.frames(table, np.asarray(choose(table), np.int64))


def stream_chosen(source: str | bytes, choose: Callable[[FrameTable], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, uint8 [H, W, 3]) of each frame chosen from the table, once, ascending, one at a time: for parts of any length.

    choose: table -> int [k], ascending. The file is opened and its table read once, before the first frame. Raises: DecodeError.
    """
    with _reading(source) as video:
        table = video.table()
        yield from video.stream(table, np.asarray(choose(table), np.int64))


def each_frame(source: str | bytes) -> Iterator[av.VideoFrame]:
    """Every frame of a video in the order of display, as the decoder gives it: neither converted nor turned upright.

    Where the table is reliable, frames have its pts. Raises: DecodeError, also for a frame that is damaged.
    """
    with _reading(source) as video:
        yield from video.each_frame()


@contextlib.contextmanager
def _reading(source):
    """An open _Video; whatever FFmpeg has to say against the file becomes a DecodeError."""
    name = source if isinstance(source, str) else f"<{len(source)} bytes>"
    try:
        with contextlib.closing(_Video(source, name)) as video:
            yield video
    except av.error.FFmpegError as error:
        raise DecodeError(name, error.strerror or str(error)) from error


class _Video:
    """An open file. Not thread-safe."""

    def __init__(self, source: str | bytes, name: str):
        self._source, self._name, self._container = source, name, None
        self._open()

    def close(self):
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self):
        self.close()
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        self._container = av.open(file, **_TOLERANT)
        self._stream = self._container.streams.best("video")  # rather than the first, which may be the cover picture
        if self._stream is None:
            raise DecodeError(self._name, "no video stream")
        if self._stream.codec_context is None:
            raise DecodeError(self._name, "no decoder for its video codec")
        # One thread: the loader runs one decoder per core already, and threads add latency to short clips.
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1

    def table(self) -> FrameTable:
        """The frame table; decodes the whole file only where packets cannot tell."""
        table = table_from_packets(self._container, self._stream)
        if table is None:
            self._open()
            table = table_from_count(self._stream, sum(1 for _ in self._decode_all()))
        if not len(table):
            raise DecodeError(self._name, "no frames")
        return table

    def frames(self, table: FrameTable, indices: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3] for int [T]."""
        if indices.size == 0 or indices.min() < 0 or indices.max() >= len(table):
            raise ValueError(f"frame numbers must lie in [0, {len(table)}), got {indices.tolist()}")
        found = dict(self._picked(table, {int(table.pts[i]) for i in indices}))
        images = [found[int(table.pts[i])] for i in indices]
        if len({image.shape for image in images}) > 1:
            raise DecodeError(self._name, "the frame size changes within the clip")
        return np.stack(images)

    def stream(self, table: FrameTable, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(index, uint8 [H, W, 3]) for int [k], ascending."""
        left, last = {int(table.pts[i]): int(i) for i in indices}, -1
        for pts, image in self._picked(table, set(left)):
            if pts in left:
                if left[pts] < last:
                    raise DecodeError(self._name, f"the frame at pts {pts} comes too late")
                last = left.pop(pts)
                yield last, image

    def each_frame(self) -> Iterator[av.VideoFrame]:
        """See the function of this name."""
        for frame in self._decode_all():
            self._check(frame)
            yield frame

    def _check(self, frame):
        if frame.is_corrupt:
            raise DecodeError(self._name, f"damaged frame at pts {frame.pts}")

    def _picked(self, table, wanted) -> Iterator[tuple[int, np.ndarray]]:
        """(pts, uint8 [H, W, 3]) of the wanted frames as they are decoded.

        Decodes from the last keyframe before them; if that fails, from the beginning of the file, and then frames come twice.
        """
        if not table.reliable:
            self._open()
            yield from self._pick(enumerate(self._decode_all()), wanted)
            return
        keys = table.pts[table.keyframe & (table.pts <= min(wanted))]
        try:
            # An index may point to the wrong place, and some keyframes (open GOP, intra refresh) do not decode cleanly
            # on their own. Both show, as packets or frames that are missing or flagged, and then only the long way is left.
            if len(keys):
                self._container.seek(int(keys[-1]), stream=self._stream)
                yield from self._pick(self._decode_wanted(wanted, until=int(keys[-1])), wanted)
                return
        except (DecodeError, av.error.FFmpegError):
            pass
        self._open()
        yield from self._pick(self._decode_wanted(wanted), wanted)

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        for packet in packets_of(self._container, self._stream):
            yield from packet.decode()

    def _decode_wanted(self, wanted, until=None) -> Iterator[tuple[int, av.VideoFrame]]:
        """(pts, frame) in decoding order from here on. until: a pts that decoding must not start behind."""
        context = self._stream.codec_context
        skipping = context.name in _SKIPPING
        for packet in packets_of(self._container, self._stream):
            if until is not None and packet.pts is not None:
                if packet.pts > until:
                    raise DecodeError(self._name, "seeking went too far")
                until = None
            if packet.is_corrupt and packet.pts in wanted:
                raise DecodeError(self._name, f"damaged packet at pts {packet.pts}")
            if skipping:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in packet.decode():
                yield frame.pts, frame

    def _pick(self, frames, wanted) -> Iterator[tuple[int, np.ndarray]]:
        """(pts, uint8 [H, W, 3]) of the wanted ones among (pts, frame) pairs; stops when it has them all."""
        left, last = set(wanted), None
        holding = self._stream.codec_context.name in _HOLDING
        for pts, frame in frames:
            passed = sorted(due for due in left if due < pts) if holding and last is not None else []
            for due, shown in [(due, last) for due in passed] + [(pts, frame)] * (pts in left):
                self._check(shown)
                left.remove(due)
                yield due, _upright_rgb(shown)
            if not left:
                return
            last = frame
        raise DecodeError(self._name, f"ends early: {len(left)} of {len(wanted)} frames are missing")


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3] as displayed."""
    # Setting up a converter costs more than converting a small frame, so each thread keeps one. threads=1 also matters: by
    # default it would start one thread per core for every frame.
    if not hasattr(_local, "reformatter"):
        _local.reformatter = VideoReformatter()
    image = _local.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # The matrix maps stored (x, y) to displayed (a x + c y, b x + d y); turns by a quarter and mirrors are all that occurs.
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
