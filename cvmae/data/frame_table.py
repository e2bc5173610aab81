"""Which frames a video holds and when each is shown, read from its packets without decoding them."""

import dataclasses
from collections.abc import Iterator

import av
import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameTable:
    """The frames of a video in the order of display.

    pts:      int64 [n], ascending, in units of the stream's time base. For a table that is not reliable: 0 .. n-1.
    times:    float64 [n], seconds since the first frame.
    keyframe: bool [n], True where decoding can start.
    fps:      mean frames per second.
    reliable: True if a decoded frame can be recognized by its pts. Otherwise frames have to be decoded from the
              beginning of the file and counted.
    """

    pts: np.ndarray
    times: np.ndarray
    keyframe: np.ndarray
    fps: float
    reliable: bool

    def __len__(self) -> int:
        return len(self.pts)


def packets_of(container, stream) -> Iterator[av.Packet]:
    """The packets of a PyAV video stream from here to the end, and last the empty one that flushes the decoder."""
    for packet in container.demux(stream):
        flushes = not packet.size and packet.dts is None
        # An empty packet with a time is a frame that the recorder dropped; a decoder would take it for the end.
        if packet.size or flushes:
            yield packet
        # Not further: PyAV goes on to flush streams that it met late in the file, and fails at that.
        if flushes:
            return


def table_from_packets(container, stream) -> FrameTable | None:
    """The table by demuxing `stream` (a PyAV video stream) to its end; None if the packets cannot tell.

    Headers are not asked: their frame counts lie, and WebM has none. Packets marked "discard" lie outside of the
    edit list of an MP4 and are never shown. None when a pts is absent or repeated, and for H.264 with B-frames in AVI: that
    container has no pts, and what the demuxer makes up is not the order of display.
    """
    if container.format.name == "avi" and stream.codec_context.name == "h264" and stream.codec_context.has_b_frames:
        return None
    packets = [(p.pts, p.is_keyframe) for p in packets_of(container, stream) if p.size and not p.is_discard]
    pts = [p for p, _ in packets]
    if not pts or None in pts or len(set(pts)) < len(pts):
        return None
    packets.sort()
    pts = np.array([p for p, _ in packets], np.int64)
    times = (pts - pts[0]) * float(stream.time_base)
    fps = (len(pts) - 1) / times[-1] if times[-1] > 0 else stated_rate(stream)
    return FrameTable(pts, times, np.array([k for _, k in packets], bool), fps, reliable=True)


def table_from_count(stream, count: int) -> FrameTable:
    """The table of a stream whose pts cannot be trusted and of which `count` frames were decoded."""
    fps = stated_rate(stream)
    order = np.arange(count, dtype=np.int64)
    return FrameTable(order, order / fps, order == 0, fps, reliable=False)


def stated_rate(stream) -> float:
    """Frames per second by the header, 25 if it has none."""
    return float(stream.average_rate or stream.guessed_rate or 25)
