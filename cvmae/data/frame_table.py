"""Frame tables: the frames of a video and their display times, read from its packets without decoding."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np

from cvmae.data.packet_order import Packet, ascend, seem_mixed_up

# Containers of streams that can be joined anywhere, as broadcast is: the first packets may refer to frames that are not there.
_JOINABLE = frozenset(("mpegts", "mpeg", "mpegvideo", "h264", "hevc"))

# Those of MP4 and QuickTime, and all containers that give the size of a packet before its content, so that a last one that is cut short is marked.
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
SIZED = frozenset((MOV, "matroska,webm", "avi", "flv"))
# The frame of the last packet is displayed among the last ones; decoders hold no more of them back.
_REORDERED = 8


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
      pixel_aspect: width of a pixel over its height, of frames that are upright; 1 where the file says nothing.
    """

    pts: np.ndarray
    times: np.ndarray
    keyframe: np.ndarray
    fps: float
    reliable: bool
    pixel_aspect: float = 1.0

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


def table_from_packets(container, stream, decoded: Callable[[], Iterable[av.VideoFrame]]) -> FrameTable | None:
    """Builds the table by demuxing a PyAV video stream to its end; returns None where packets do not give the display order.

    Frame counts in headers are not used: they can be wrong, and WebM has none. Packets marked "discard" lie outside the edit
    list of an MP4 and are never shown; packets that the end of the file cuts off are no frames, but in MP4. Where a file may begin between keyframes, its beginning is decoded, and the table has
    only the frames that come out. Returns None if a pts is absent or repeated, if pts run back from one
    decoded frame to the next (in joined files, of which all is decoded if the times of packets seem mixed up), and for H.264 with
    B-frames in AVI: that container has no pts, and the ones that the demuxer makes up do not follow the display order.

    Args:
      container, stream: at the beginning of the file.
      decoded: opens the file again, and yields the frames of a full decode; `stream` is closed then.
    """
    form, context = container.format.name, stream.codec_context
    if form == "avi" and context.name == "h264" and context.has_b_frames:
        return None
    seconds, rate = float(stream.time_base), header_fps(stream)
    # The header of an MP4 lists its frames, so that one that is not there is missing, not cut off.
    all_packets = packets_of(container, stream)
    kept = all_packets if form == MOV else _without_cut(all_packets)
    packets = []
    for p in kept:
        if p.size and p.pts is not None:
            packets.append(Packet(p.pts, p.dts, p.is_keyframe, p.is_discard))
        elif p.size and not p.is_discard:
            return None
    shown = [packet for packet in packets if not packet.is_discard]
    if not shown or len({packet.pts for packet in shown}) < len(shown):
        return None
    if seem_mixed_up(shown, form, context) and not ascend(decoded()):
        return None
    shown.sort()
    keys = [packet.pts for packet in packets if packet.is_keyframe]
    begins_at_key = packets[0].is_keyframe and all(packet.pts >= keys[0] for packet in packets)
    if form in _JOINABLE or not begins_at_key:
        shown = _without_lost(shown, keys[0] if keys else shown[0].pts, decoded())
        if not shown:
            return None
    pts = np.array([packet.pts for packet in shown], np.int64)
    times = (pts - pts[0]) * seconds
    fps = (len(pts) - 1) / times[-1] if times[-1] > 0 else rate
    return FrameTable(pts, times, np.array([packet.is_keyframe for packet in shown], bool), fps, reliable=True)


def _without_cut(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Yields the packets that have a content, without the last ones if these are cut short."""
    waiting = []
    for packet in packets:
        if packet.size:
            waiting.append(packet)
            if not packet.is_corrupt:
                yield from waiting
                waiting = []


def without_cut_end(table: FrameTable, frames: Iterable[av.VideoFrame]) -> FrameTable:
    """Returns a table without the frames that the end of the file cuts off, which are damaged or do not come out of the decoder.

    Args:
      table: reliable.
      frames: decoded from a keyframe of the table to the end of the file.
    """
    intact = {frame.pts: not frame.is_corrupt for frame in frames}
    if not intact and table.keyframe.sum() > 2:  # nothing was decoded from the place that was looked for
        return table
    first = min((pts for pts in intact if pts is not None), default=table.pts[0])
    last = [int(pts) for pts in table.pts[-_REORDERED:] if pts >= first]
    count = _whole([intact.get(pts, False) for pts in last], len(table))
    return dataclasses.replace(table, pts=table.pts[:count], times=table.times[:count], keyframe=table.keyframe[:count])


def count_frames(frames: Iterable[av.VideoFrame]) -> int:
    """Returns the number of frames without those that the end of the file cuts off, which are damaged."""
    intact = [not frame.is_corrupt for frame in frames]
    return _whole(intact[-_REORDERED:], len(intact))


def _whole(last: list[bool], count: int) -> int:
    """Returns the number of the frames before the first of the last ones, of `count`, that is not whole."""
    return count - len(last) + last.index(False) if False in last else count


def _without_lost(packets, key_pts, frames):
    """Returns packets, ascending by pts, without those at the beginning that no decoded frame belongs to.

    Decodes until the first keyframe is displayed, since the frames that are displayed before it may miss their references.
    """
    displayed: set[int] = set()
    for frame in frames:
        displayed.add(frame.pts)
        if frame.pts is not None and frame.pts >= key_pts:
            return [packet for packet in packets if packet.pts >= frame.pts or packet.pts in displayed]
    return [packet for packet in packets if packet.pts in displayed]


def table_from_count(stream, count: int) -> FrameTable:
    """Builds the table of a stream with unreliable pts, from the number of its decoded frames."""
    fps = header_fps(stream)
    order = np.arange(count, dtype=np.int64)
    return FrameTable(order, order / fps, order == 0, fps, reliable=False)


def header_fps(stream) -> float:
    """Returns the frames per second in the header of a PyAV stream, or 25 if it has none."""
    return float(stream.average_rate or stream.guessed_rate or 25)
