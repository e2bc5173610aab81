"""Frame tables: the frames of a video and their display times, read from its packets without decoding."""

import dataclasses
from collections.abc import Iterator

import av
import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameTable:
    """Frames of a video in display order.

    Attributes:
      pts: int64 [n], presentation timestamps, ascending, in units of the stream's time base; 0 .. n-1 if not reliable.
      times: float64 [n], seconds since the first frame.
      keyframe: bool [n], True where decoding can start.
      fps: mean frames per second.
      reliable: True if a decoded frame can be identified by its pts; otherwise frames have to be counted, decoding from the
        beginning of the file.
    """

    pts: np.ndarray
    times: np.ndarray
    keyframe: np.ndarray
    fps: float
    reliable: bool

    def __len__(self) -> int:
        return len(self.pts)


def packets_of(container, stream) -> Iterator[av.Packet]:
    """Yields the packets of a PyAV video stream from the current position, and last the empty one that flushes the decoder."""
    for packet in container.demux(stream):
        flushes = not packet.size and packet.dts is None
        # An empty packet with a timestamp is a frame that the recorder dropped; a decoder would take it for the end.
        if packet.size or flushes:
            yield packet
        # Stop here: PyAV would go on to flush streams that start late in the file, which fails.
        if flushes:
            return


def table_from_packets(container, stream) -> FrameTable | None:
    """Builds the table by demuxing a PyAV video stream to its end; returns None where packets do not give the display order.

    Frame counts in headers are not used: they can be wrong, and WebM has none. Packets marked "discard" lie outside the edit
    list of an MP4 and are never shown. Returns None if a pts is absent or repeated, and for H.264 with B-frames in AVI: that
    container has no pts, and the ones that the demuxer makes up do not follow the display order.
    """
    if container.format.name == "avi" and stream.codec_context.name == "h264" and stream.codec_context.has_b_frames:
        return None
    packets = [(p.pts, p.is_keyframe) for p in packets_of(container, stream) if p.size and not p.is_discard]
    if not packets or len({p for p, _ in packets if p is not None}) < len(packets):
        return None
    packets.sort()
    pts = np.array([p for p, _ in packets], np.int64)
    times = (pts - pts[0]) * float(stream.time_base)
    fps = (len(pts) - 1) / times[-1] if times[-1] > 0 else header_fps(stream)
    return FrameTable(pts, times, np.array([k for _, k in packets], bool), fps, reliable=True)


def table_from_count(stream, count: int) -> FrameTable:
    """Builds the table of a stream with unreliable pts, from the number of its decoded frames."""
    fps = header_fps(stream)
    order = np.arange(count, dtype=np.int64)
    return FrameTable(order, order / fps, order == 0, fps, reliable=False)


def header_fps(stream) -> float:
    """Returns the frames per second in the header of a PyAV stream, or 25 if it has none."""
    return float(stream.average_rate or stream.guessed_rate or 25)
