"""Open video file: its frame table, and its frames by their place in the table, in one pass over the packets."""

import contextlib
import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from cvmae.data.frame_table import (
    SIZED,
    FrameTable,
    count_frames,
    packets_of,
    table_from_count,
    table_from_packets,
    without_cut_end,
)
from cvmae.data.upright import is_transposed, upright_rgb
from cvmae.data.video_input import DecodeError, VideoInput

# Codecs whose decoders can skip non-reference frames exactly, which saves a quarter of the time and more, and hold frames back.
_SKIPPING = frozenset({"h264", "hevc"})

# Codecs whose packets may hold no picture (DivX and Xvid write such): the previous frame is shown again, as in a player.
_HOLDING = frozenset({"mpeg4", "msmpeg4v2", "msmpeg4v3"})


class OpenVideo:
    """Open video file. Not thread-safe."""

    def __init__(self, file: VideoInput, name: str):
        self._file, self._name = file, name
        self._open()

    def close(self):
        self._container.close()

    def _reopen(self):
        """Goes back to the beginning of the file."""
        self.close()
        self._open()

    def _open(self):
        self._container, self._stream = self._file.open()
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
            table = table_from_count(self._stream, count_frames(self._decode_all()))
        elif self._container.format.name not in SIZED and self._stream.codec_context.name not in _HOLDING:
            table = without_cut_end(table, self._decode_tail(table))
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
        positions, done = {int(table.pts[index]): number for number, index in enumerate(indices)}, 0
        for pts, image in self._decode_at(table, set(positions)):
            if positions[pts] > done:
                raise DecodeError(self._name, f"the frame at pts {pts} comes out of order")
            if positions[pts] == done:  # others come again, decoded from the beginning
                yield int(indices[done]), image
                done += 1

    def each_frame(self, table: FrameTable | None) -> Iterator[av.VideoFrame]:
        """Yields every frame in display order, see the function of this name."""
        listed = set() if table is None else set(table.pts.tolist())
        for number, frame in enumerate(self._decode_all()):
            pts = number if table is None or not table.reliable else frame.pts
            if table is not None and pts not in listed and (frame.is_corrupt or pts is None or pts > table.pts[-1]):
                continue  # the end of the file cuts it off
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
        """Yields the frames from the current position to the end. The last packet may fail: the file is cut there.

        Raises:
          av.FFmpegError: a packet before it cannot be decoded, or none can.
        """
        failed, is_empty = None, True
        for packet in packets_of(self._container, self._stream):
            if failed is not None and packet.size:
                raise failed
            try:
                frames = self._decode(packet)
            except av.error.InvalidDataError as error:
                failed = error
                continue
            is_empty = is_empty and not frames
            yield from frames
        if failed is not None and is_empty:
            raise failed

    def _decode_tail(self, table) -> Iterator[av.VideoFrame]:
        """Yields the frames from a keyframe near the end, at the latest the last but one, to the end."""
        keys = table.pts[table.keyframe]
        self._reopen()
        with contextlib.suppress(av.error.InvalidDataError):
            if len(keys) > 2:
                self._container.seek(int(keys[-3]), stream=self._stream)
                first = next(packets_of(self._container, self._stream), None)
                if first is None or first.pts is None or first.pts > keys[-2]:  # an index may point to the wrong position
                    self._reopen()
                else:
                    self._container.seek(int(keys[-3]), stream=self._stream)
            yield from self._decode_all()

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
        context, remaining, failed = self._stream.codec_context, set(wanted), None
        skipping = context.name in _SKIPPING
        for packet in packets_of(self._container, self._stream):
            if until is not None and packet.pts is not None:
                if packet.pts > until:
                    raise DecodeError(self._name, "seeking went too far")
                until = None
            if packet.is_corrupt and packet.pts in wanted:
                raise DecodeError(self._name, f"damaged packet at pts {packet.pts}")
            if failed is not None and packet.size:
                raise failed
            if skipping:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            try:
                for frame in self._decode(packet):
                    yield frame.pts, frame
            except av.error.InvalidDataError as error:  # the last packet may fail: the file is cut there
                failed = error
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
