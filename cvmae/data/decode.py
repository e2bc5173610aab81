"""Frame-exact video decoding with PyAV.

Frames are bit-equal to those of decoding the whole file and counting, in display order. The work is less: decoding starts at
the keyframe before the first requested frame, skips frames that no requested one refers to, and stops at the last requested
one: frames that the decoder holds back are flushed, not pushed out by decoding those that follow. They are as stored: where
pixels are not square, the table's `pixel_aspect` says so, and `clips.fit_frames` takes it.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

from cvmae.data.frame_table import FrameTable, packets_of, table_from_count, table_from_packets
from cvmae.data.probe import SCRIPTS, TOLERANT, video_stream
from cvmae.data.upright import is_transposed, upright_rgb

# Codecs whose decoders can skip non-reference frames exactly, which saves a quarter of the time and more, and hold frames back.
_SKIPPING = frozenset({"h264", "hevc"})

# Codecs whose packets may hold no picture (DivX and Xvid write such): the previous frame is shown again, as in a player.
_HOLDING = frozenset({"mpeg4", "msmpeg4v2", "msmpeg4v3"})


class DecodeError(Exception):
    """A video cannot be read.

    Attributes:
      name: its path, or a description of its bytes.
      reason: the cause, for the user.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both are arguments, so that the error can be pickled
        self.name, self.reason = name, reason

    def __str__(self):
        return f"{self.name}: {self.reason}"


def read_table(source: str | bytes) -> FrameTable:
    """Returns the frame table of a video, given as a path or as the bytes of an encoded file. Raises: DecodeError."""
    with _reading(source) as video:
        return video.table()


def stored_pixel_aspect(source: str | bytes) -> Fraction:
    """Returns the width of a stored pixel over its height, 1 where the file says nothing. Raises: DecodeError."""
    with _reading(source) as video:
        return video.stored_pixel_aspect()


def read_frames(source: str | bytes, indices, *, table: FrameTable | None = None) -> np.ndarray:
    """Decodes frames by index: uint8 [T, H, W, 3], RGB, upright, in the order of `indices`.

    Args:
      source: a path, or the bytes of an encoded file.
      indices: int [T], indices into the frame table, in any order, repeats allowed.
      table: the frame table of the file, if it was read before.

    Raises:
      DecodeError: the file cannot be read.
      ValueError: an index is out of range.
    """
    with _reading(source) as video:
        return video.frames(table or video.table(), np.asarray(indices, np.int64))


def read_chosen(source: str | bytes, choose: Callable[[FrameTable], np.ndarray]) -> np.ndarray:
    """Decodes the frames that `choose` selects from the frame table, uint8 [T, H, W, 3], and opens the file only once.

    Args:
      source: a path, or the bytes of an encoded file.
      choose: maps the frame table to indices, int [T], as `read_frames` takes them.

    Raises:
      DecodeError: the file cannot be read.
      ValueError: an index is out of range.
    """
    with _reading(source) as video:
        table = video.table()
        return video.frames(table, np.asarray(choose(table), np.int64))


def stream_chosen(source: str | bytes, choose: Callable[[FrameTable], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, uint8 [H, W, 3]) of the frames that `choose` selects, one at a time, for videos of any length.

    The file is opened and its table read once, before the first frame.

    Args:
      source: a path, or the bytes of an encoded file.
      choose: maps the frame table to indices, int [k], ascending, without repeats.

    Raises:
      DecodeError: the file cannot be read.
    """
    with _reading(source) as video:
        table = video.table()
        yield from video.stream(table, np.asarray(choose(table), np.int64))


def each_frame(source: str | bytes) -> Iterator[av.VideoFrame]:
    """Yields every frame of a video in display order as decoded: neither converted to RGB nor turned upright.

    If the frame table is reliable, frames have its pts. Raises: DecodeError, also for a damaged frame.
    """
    with _reading(source) as video:
        yield from video.each_frame()


@contextlib.contextmanager
def _reading(source):
    """Opens a _Video and turns errors of FFmpeg in the block into a DecodeError."""
    name = source if isinstance(source, str) else f"<{len(source)} bytes>"
    try:
        with contextlib.closing(_Video(source, name)) as video:
            yield video
    except av.error.FFmpegError as error:
        raise DecodeError(name, error.strerror or str(error)) from error


class _Video:
    """Open video file. Not thread-safe."""

    def __init__(self, source: str | bytes, name: str):
        self._source, self._name = source, name
        self._open()

    def close(self):
        self._container.close()

    def _reopen(self):
        """Goes back to the beginning of the file."""
        self.close()
        self._open()

    def _open(self):
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        # FFmpeg would take a picture called 1%02d.jpg for a sequence of pictures.
        options = {"pattern_type": "none"} if isinstance(file, str) and "%" in file else {}
        self._container = av.open(file, options=options, **TOLERANT)
        if self._container.format.name in SCRIPTS:
            raise DecodeError(self._name, "a playlist, which names other files: list those")
        self._stream = video_stream(self._container)
        if self._stream is None:
            only = ", only a picture, such as the cover of a song" if self._container.streams.video else ""
            raise DecodeError(self._name, f"no video stream{only}")
        if self._stream.codec_context is None:
            raise DecodeError(self._name, "no decoder for its video codec")
        self._has_key = False
        # One thread: the loader runs one decoder per core already, and threads add latency to short clips.
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1

    def table(self) -> FrameTable:
        """Returns the frame table; decodes the whole file only if its packets do not give the display order."""
        # After a seek FFmpeg gives packets of a program stream (.mpg, .vob) their neighbors' pts, so its frames are counted.
        is_program_stream = self._container.format.name == "mpeg"
        table = None if is_program_stream else table_from_packets(self._container, self._stream, self._decode_again)
        if table is None:
            self._reopen()
            table = table_from_count(self._stream, sum(1 for _ in self._decode_all()))
        if not len(table):
            raise DecodeError(self._name, "no frames")
        return dataclasses.replace(table, pixel_aspect=self._pixel_aspect())

    def stored_pixel_aspect(self) -> Fraction:
        """Returns the width of a stored pixel over its height, 1 where the file says nothing."""
        return Fraction(self._stream.sample_aspect_ratio or 1)

    def _pixel_aspect(self) -> float:
        """Returns the width of a pixel over its height, of upright frames; decodes one where it is not 1."""
        stored = float(self.stored_pixel_aspect())
        if stored == 1:
            return 1.0
        frame = next(self._decode_again(), None)
        return 1 / stored if frame is not None and is_transposed(frame) else stored

    def frames(self, table: FrameTable, indices: np.ndarray) -> np.ndarray:
        """Decodes the frames at `indices`, int [T], to uint8 [T, H, W, 3]."""
        if indices.size == 0 or indices.min() < 0 or indices.max() >= len(table):
            raise ValueError(f"frame numbers must lie in [0, {len(table)}), got {indices.tolist()}")
        image_at = dict(self._decode_at(table, {int(table.pts[i]) for i in indices}))
        images = [image_at[int(table.pts[i])] for i in indices]
        if len({image.shape for image in images}) > 1:
            raise DecodeError(self._name, "the frame size changes within the clip")
        return np.stack(images)

    def stream(self, table: FrameTable, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 [H, W, 3]) for `indices`, int [k], ascending."""
        remaining, last = {int(table.pts[i]): int(i) for i in indices}, -1
        for pts, image in self._decode_at(table, set(remaining)):
            if pts in remaining:
                if remaining[pts] < last:
                    raise DecodeError(self._name, f"the frame at pts {pts} comes too late")
                last = remaining.pop(pts)
                yield last, image

    def each_frame(self) -> Iterator[av.VideoFrame]:
        """Yields every frame in display order, see the function of this name."""
        for frame in self._decode_all():
            self._check(frame)
            yield frame

    def _check(self, frame):
        if frame.is_corrupt:
            raise DecodeError(self._name, f"damaged frame at pts {frame.pts}")

    def _decode_at(self, table, wanted) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (pts, uint8 [H, W, 3]) of the frames whose pts are in `wanted`, as they are decoded.

        Decodes from the last keyframe before them; if that fails on the way, again from the beginning of the file, and then
        some frames come twice.
        """
        if not table.reliable:
            self._reopen()
            yield from self._select(enumerate(self._decode_all()), wanted)
            return
        keys = table.pts[table.keyframe & (table.pts <= min(wanted))]
        try:
            # A file's index may point to the wrong position, and some keyframes (open GOP, intra refresh) do not decode
            # cleanly on their own. Both appear as missing or flagged packets or frames; then the file is decoded from the start.
            if len(keys):
                self._container.seek(int(keys[-1]), stream=self._stream)
                yield from self._select(self._decode_wanted(wanted, until=int(keys[-1])), wanted)
                return
        except (DecodeError, av.error.FFmpegError):
            pass
        self._reopen()
        yield from self._select(self._decode_wanted(wanted), wanted)

    def _decode_again(self) -> Iterator[av.VideoFrame]:
        self._reopen()
        yield from self._decode_all()

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        for packet in packets_of(self._container, self._stream):
            yield from self._decode(packet)

    def _decode(self, packet) -> list[av.VideoFrame]:
        """Decodes a packet. In a file that begins between keyframes, the packets before the first one may fail to decode."""
        self._has_key = self._has_key or packet.is_keyframe
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            if self._has_key or not packet.size:
                raise
            return []

    def _decode_wanted(self, wanted, until=None) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Yields (pts, frame) in display order from the current position, which must not lie after the pts `until`."""
        context, remaining = self._stream.codec_context, set(wanted)
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
            for frame in self._decode(packet):
                yield frame.pts, frame
            remaining.discard(packet.pts)
            if skipping and not remaining and packet.size:
                # The frames that follow would be decoded only to push these out. Fields of a frame do not come in packets of their
                # own here: such packets give no reliable table.
                for frame in context.decode(None):
                    yield frame.pts, frame
                return

    def _select(self, frames, wanted) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (pts, uint8 [H, W, 3]) of the wanted ones among (pts, frame) pairs; stops after the last of them."""
        remaining, previous = set(wanted), None
        holds_previous = self._stream.codec_context.name in _HOLDING
        for pts, frame in frames:
            ready = []
            if holds_previous and pts is None:  # it may be the wanted one, for which the previous frame would be taken
                raise DecodeError(self._name, "a decoded frame has no pts")
            if holds_previous and previous is not None:
                ready = [(skipped, previous) for skipped in sorted(remaining) if skipped < pts]
            if pts in remaining:
                ready.append((pts, frame))
            for ready_pts, displayed in ready:
                self._check(displayed)
                remaining.remove(ready_pts)
                yield ready_pts, upright_rgb(displayed)
            if not remaining:
                return
            previous = frame
        raise DecodeError(self._name, f"ends early: {len(remaining)} of {len(wanted)} frames are missing")
