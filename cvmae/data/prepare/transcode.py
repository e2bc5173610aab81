"""Re-encodes a video to a small side and short groups of pictures: the form that clips are decoded from fastest."""

import errno
import os
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from cvmae.data.decode import DecodeError, each_frame, read_table
from cvmae.data.frame_table import FrameTable
from cvmae.data.worker_pool import StopRun

GOP = 12  # frames from keyframe to keyframe at most: reading a clip decodes at most so many that it does not want
# Quality: about what x264's default 23 loses would be lost a second time. One thread: there is a process for each core.
_X264 = {"g": str(GOP), "crf": "20", "preset": "fast", "threads": "1"}

# Errors that the next file would meet as well.
_OF_THE_DISK = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EEXIST", "EIO")


def transcode(source: str, target: str, side: int, temporary: str) -> FrameTable:
    """Writes `source` as H.264 in MP4 to `target`, and returns target's frame table.

    side: pixels of the shorter side, even; a smaller video keeps its size, less a pixel where that is odd. temporary: a file
    to write first, on target's file system; target appears whole or not at all. One that was made of the same source in the
    same way is left as it is.

    There are as many frames as in the source, at the same times, with the same turn and colours; sound is left out.
    Raises: DecodeError if the source cannot be read to its end; StopRun if target cannot be written.
    """
    facts = os.stat(source)
    mark = f"cvmae {side} {GOP} of {facts.st_size} {facts.st_mtime_ns}"
    if _mark_of(target) == mark:
        return read_table(target)
    table = read_table(source)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = mark
            _encode(container, _timed_frames(source, table), side)
        written = _verified(temporary, len(table))
        os.replace(temporary, target)
    except (av.error.FFmpegError, OSError) as error:
        reason = f"{target} cannot be written: {error.strerror or error}"
        raise (StopRun if errno.errorcode.get(error.errno) in _OF_THE_DISK else RuntimeError)(reason) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return written


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with `side` as the shorter, both even, never larger than they are."""
    scale = side / min(width, height)
    return tuple(max(2, min(round(length * scale / 2), length // 2) * 2) for length in (width, height))


def _verified(path, count):
    """The table of a file just written."""
    try:
        table = read_table(path)
    except DecodeError as error:
        raise StopRun(f"{path} was written and cannot be read: {error.reason}") from error
    if len(table) != count:
        raise RuntimeError(f"{len(table)} frames were written of {count}")
    return table


def _mark_of(path):
    """How a file was made, "" if there is none or it says nothing."""
    try:
        with av.open(path) as container:
            return container.metadata.get("comment", "")
    except (av.error.FFmpegError, UnicodeDecodeError):
        return ""


def _timed_frames(source, table):
    """A frame for each of the table, with its time since the first. Raises: DecodeError if they cannot be told apart.

    Where a packet holds no picture of its own (MPEG-4 of DivX and Xvid has such), the frame before stays, as on a screen.
    """
    even = 1 / Fraction(table.fps).limit_denominator(1001)  # for frames that are counted, not recognised
    count, last = 0, None
    for frame in each_frame(source):
        place = int(np.searchsorted(table.pts, frame.pts)) if table.reliable else count
        is_listed = place < len(table) and (not table.reliable or table.pts[place] == frame.pts)
        if not is_listed or place < count or (place > 0 and last is None):
            raise DecodeError(source, f"frame {count} is not the one that its packets announce")
        base = frame.time_base if table.reliable else even
        for due in range(count, place + 1):
            shown = frame if due == place else last
            shown.pts, shown.time_base = int(table.pts[due] - table.pts[0]), base
            yield shown
        count, last = place + 1, frame
    if count < len(table):
        raise DecodeError(source, f"ends early: {len(table) - count} of {len(table)} frames are missing")


def _encode(container, frames, side):
    convert, stream, size = VideoReformatter(), None, None
    for frame in frames:
        width, height = size or fitted(frame.width, frame.height, side)
        picture = convert.reformat(frame, width, height, "yuv420p", interpolation="AREA", threads=1)
        if stream is None:
            size = width, height
            stream = _open_stream(container, frame, picture)
        picture.pts, picture.time_base = frame.pts, frame.time_base
        picture.pict_type = 0  # the source's keyframes are not ours
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _open_stream(container, frame, picture):
    stream = container.add_stream("libx264", options=_X264)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    stream.codec_context.time_base = frame.time_base
    # Without these a reader would take other colours for the same numbers.
    for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(stream.codec_context, tag, getattr(picture, tag))
    if turn := frame.side_data.get("DISPLAYMATRIX"):
        matrix = np.frombuffer(turn, np.int32, count=9).copy()
        matrix[6:8] = 0  # where the picture lies, in pixels that it no longer has
        stream.set_display_matrix(matrix.tolist())
    return stream
