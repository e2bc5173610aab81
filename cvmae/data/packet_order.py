"""Order of the times of a video's packets: whether frames, sorted by them, can be those of one video."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import av
import numpy as np

# Containers that store a time of decoding beside that of display. FFmpeg works it out for others: from counts, or by a guess.
_STORES_DTS = frozenset(("mpegts", "flv"))
# Places between a packet and its frame's place in display order at most; groups of frames that are sorted together have up to 32.
_DISPLACED = 32
# Of the usual distance between frames: what is less than the one is short, and what differs by less than the other is usual. A time that
# moved makes two short ones at most, and recordings with a variable rate have many.
_SQUEEZED, _EVEN, _MOVED = 0.7, 0.2, 2
# B-frames that common settings of encoders put before the last frame of a recording, which may follow a pause.
_GROUP = 8


class Packet(NamedTuple):
    """Packet with a pts, as far as tables need it. Sorted, packets are in display order."""

    pts: int
    dts: int | None
    is_keyframe: bool
    is_discard: bool


def seem_mixed_up(shown: list[Packet], form: str, context) -> bool:
    """Returns True if times are hardly those of one video, but of joined files, a restarted recorder or damaged fields.

    A long gap is no fault: a recording of a screen may show one frame for minutes. Where this returns True, `ascend` of all
    decoded frames decides.

    Args:
      shown: the packets that are displayed, one or more, in the order of decoding, no pts twice.
      form: FFmpeg's name of the container.
      context: the PyAV codec context of the stream.
    """
    times = np.array([packet.pts for packet in shown])
    descends = bool((np.diff(times) < 0).any())
    if not context.codec.reorder:
        return descends
    if descends and not context.has_b_frames:
        return True
    stored = [packet for packet in shown if packet.dts is not None] if form in _STORES_DTS else []
    dts = np.array([packet.dts for packet in stored], np.int64)
    if (np.diff(dts) < 0).any() or (np.array([packet.pts for packet in stored]) < dts).any():
        return True
    order = np.argsort(times)
    is_displaced = np.abs(np.argsort(order) - np.arange(len(times))).max() > _DISPLACED
    ascending = times[order]
    return bool(is_displaced) or _strays(ascending, order) or _squeezes(ascending) or _crosses_keyframe(shown)


def _strays(ascending: np.ndarray, order: np.ndarray) -> bool:
    """Returns True if the frame that is displayed last comes later after the others than these last, and is decoded amid them."""
    if len(order) <= _GROUP + 1 or order[-1] >= len(order) - 1 - _GROUP:
        return False
    return bool(ascending[-1] - ascending[-2] > ascending[-2] - ascending[0])


def _squeezes(ascending: np.ndarray) -> bool:
    """Returns True if a frame or two stand between others that keep one distance, as a frame does whose time was damaged."""
    gaps = np.diff(ascending)
    usual = np.median(gaps) if len(gaps) else 0
    return 0 < (gaps < _SQUEEZED * usual).sum() <= _MOVED and bool((np.abs(gaps - usual) < _EVEN * usual).mean() > 0.5)


def _crosses_keyframe(shown: list[Packet]) -> bool:
    """Returns True if frames are displayed on the wrong side of a keyframe, for packets as `seem_mixed_up` takes them.

    What is decoded before a keyframe is displayed before it. Of what is decoded after it, only the first frames may be (in an open
    group of pictures), and not before the previous keyframe.
    """
    latest = key = previous_key = -math.inf
    leads = False
    for packet in shown:
        if packet.is_keyframe:
            if packet.pts < latest:
                return True
            key, previous_key, leads = packet.pts, key, True
        elif packet.pts > key:
            leads = False
        elif not leads or packet.pts < previous_key:
            return True
        latest = max(latest, packet.pts)
    return False


def ascend(frames: Iterable[av.VideoFrame]) -> bool:
    """Returns True if the pts of decoded frames ascend from each to the next."""
    latest = -math.inf
    for frame in frames:
        if frame.pts is None or frame.pts <= latest:
            return False
        latest = frame.pts
    return True
