"""Re-encodes a video to a small side and short groups of pictures, the format from which clips are decoded fastest."""

import errno
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from cvmae.data.decode import DecodeError, each_frame, read_table, stored_pixel_aspect
from cvmae.data.frame_table import FrameTable
from cvmae.data.prepare.frame_folders import FPS, folder_identity, frame_paths
from cvmae.data.worker_pool import StopRun

GOP = 12  # frames between keyframes at most, and so the most frames that are decoded before the first frame of a clip
# crf: with x264's default of 23, about as much as the source's encoding lost would be lost once more. threads: there is a
# process for each core.
_X264 = {"g": str(GOP), "crf": "20", "preset": "fast", "threads": "1"}

# Errors of the disk or the folder, which the next file would meet as well.
_OF_THE_DISK = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EEXIST", "EIO")
_DISK_NUMBERS = frozenset(number for number, name in errno.errorcode.items() if name in _OF_THE_DISK)


def transcode(source: str, target: str, side: int, temporary: str) -> FrameTable:
    """Writes `source` as H.264 in MP4 to `target`, and returns the frame table of `target`.

    All frames of the source are kept, at the same times, with the same rotation, colors and shape of pixels; sound is left out. A target that
    was encoded from the same source with the same settings is kept.

    Args:
      source: path of the video.
      target: path of the new file, which appears only when it is complete; missing folders are made.
      side: pixels of the shorter side, even. A smaller video keeps its size, less one pixel where a side is odd.
      temporary: path of a file that is written first, on the file system of `target`.

    Raises:
      DecodeError: the source cannot be read to its end.
      StopRun: the disk is full, or files cannot be written in the folder of `target`.
      RuntimeError: the encoder failed.
    """
    status = os.stat(source)
    aspect = stored_pixel_aspect(source)
    pixels = "" if aspect == 1 else f" pixels {aspect}"  # which earlier versions lost
    mark = f"cvmae {side} {GOP} of {status.st_size} {status.st_mtime_ns}{pixels}"
    if _mark_of(target) == mark:
        return read_table(target)
    table = read_table(source)
    return _write(target, temporary, mark, _timed_frames(source, table), len(table), side, aspect)


def transcode_frames(folder: str, target: str, side: int, temporary: str) -> FrameTable:
    """Writes the frames of a folder, `00001.jpg` and so on, as a video of FPS frames per second; see `transcode`.

    Raises:
      DecodeError: a frame is missing, cannot be read, or has another size than the first.
      StopRun, RuntimeError: see `transcode`.
    """
    mark = f"cvmae {side} {GOP} {FPS} fps of {' '.join(map(str, folder_identity(folder)))}"
    if _mark_of(target) == mark:
        return read_table(target)
    try:
        paths = frame_paths(folder)
    except ValueError as error:
        raise DecodeError(folder, str(error)) from error
    return _write(target, temporary, mark, _frames_of(folder, paths), len(paths), side, Fraction(1))


def _frames_of(folder, paths):
    """Yields the pictures as frames with their times. Raises: DecodeError."""
    size = None
    for number, path in enumerate(paths):
        try:
            frame = next(each_frame(path))
        except DecodeError as error:
            raise DecodeError(folder, f"{os.path.basename(path)}: {error.reason}") from error
        if size not in (None, (frame.width, frame.height)):
            raise DecodeError(
                folder, f"{os.path.basename(path)} is {frame.width}x{frame.height}, the first frame {size[0]}x{size[1]}"
            )
        size = frame.width, frame.height
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        yield frame


def _write(target, temporary, mark, frames, count, side, aspect) -> FrameTable:
    """Encodes `count` frames, and moves the file to `target` once it is complete and read back."""
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = mark
            _encode(container, frames, side, aspect)
        written = _verified(temporary, count)
        os.replace(temporary, target)
    except (av.error.FFmpegError, OSError) as error:
        reason = f"{target} cannot be written: {error.strerror or error}"
        raise (StopRun if error.errno in _DISK_NUMBERS else RuntimeError)(reason) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return written


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Returns (width, height) scaled to `side` as the shorter one, both even, never larger than before."""
    scale = side / min(width, height)

    def shrink(length: int) -> int:
        return max(2, min(round(length * scale / 2), length // 2) * 2)

    return shrink(width), shrink(height)


def _verified(path, count):
    """Returns the frame table of a file just written, which must have `count` frames."""
    try:
        table = read_table(path)
    except DecodeError as error:
        raise StopRun(f"{path} was written and cannot be read: {error.reason}") from error
    if len(table) != count:
        raise RuntimeError(f"{len(table)} frames were written of {count}")
    return table


def _mark_of(path):
    """Returns the comment of a video file, which records its source and settings; "" without a file or a comment."""
    try:
        with av.open(path) as container:
            return container.metadata.get("comment", "")
    except (av.error.FFmpegError, UnicodeDecodeError):
        return ""


def numbered_frames(source: str, table: FrameTable) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields (index in the table, frame) of every frame that has a picture, in display order.

    Raises:
      DecodeError: the file cannot be read, or the frames are not in the order of the table.
    """
    count = 0
    for frame in each_frame(source, table):
        index = count if not table.reliable or frame.pts is None else int(np.searchsorted(table.pts, frame.pts))
        is_listed = index < len(table) and (not table.reliable or table.pts[index] == frame.pts)
        if not is_listed or index < count:
            raise DecodeError(
                source, f"decoded frame {count} is not the one that its packets announce: convert the file, or leave it out"
            )
        yield index, frame
        count = index + 1


def _timed_frames(source, table):
    """Yields a frame for each entry of the table, with its time since the first.

    For a packet without a picture (the MPEG-4 of DivX and Xvid has such packets), the previous frame is repeated, as players
    do. Raises: DecodeError if frames cannot be matched with the table, or are missing at either end.
    """
    even = 1 / Fraction(table.fps).limit_denominator(1001)  # for frames that are matched by their number, not their time
    count, last = 0, None
    for index, frame in numbered_frames(source, table):
        if index > 0 and last is None:
            raise DecodeError(source, f"{index} of {len(table)} frames are missing at the beginning")
        base = frame.time_base if table.reliable else even
        for shown_index in range(count, index + 1):
            shown = frame if shown_index == index else last
            shown.pts, shown.time_base = int(table.pts[shown_index] - table.pts[0]), base
            yield shown
        count, last = index + 1, frame
    if count < len(table):
        raise DecodeError(source, f"ends early: {len(table) - count} of {len(table)} frames are missing")


def _encode(container, frames, side, aspect):
    convert, stream, size = VideoReformatter(), None, None
    for frame in frames:
        width, height = size or fitted(frame.width, frame.height, side)
        picture = convert.reformat(frame, width, height, "yuv420p", interpolation="AREA", threads=1)
        if stream is None:
            size = width, height
            stream = _open_stream(container, frame, picture)
            stream.sample_aspect_ratio = aspect
        picture.pts, picture.time_base = frame.pts, frame.time_base
        picture.pict_type = 0  # lets the encoder choose keyframes, instead of those of the source
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _open_stream(container, frame, picture):
    stream = container.add_stream("libx264", options=_X264)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    stream.codec_context.time_base = frame.time_base
    # Without these tags, decoders would convert the same values to other colors.
    for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(stream.codec_context, tag, getattr(picture, tag))
    if turn := frame.side_data.get("DISPLAYMATRIX"):
        matrix = np.frombuffer(turn, np.int32, count=9).copy()
        matrix[6:8] = 0  # the offset, in pixels of the source's size
        stream.set_display_matrix(matrix.tolist())
    return stream
