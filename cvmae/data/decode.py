"""Frame-exact video decoding with PyAV.

Frames are bit-equal to those of decoding the whole file and counting, in display order. The work is less: decoding starts at
the keyframe before the first requested frame, skips frames that no requested one refers to, and stops at the last requested
one: frames that the decoder holds back are flushed, not pushed out by decoding those that follow. They are as stored: where
pixels are not square, the table's `pixel_aspect` says so, and `clips.fit_frames` takes it.
"""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np

from cvmae.data.frame_table import FrameTable
from cvmae.data.open_video import OpenVideo
from cvmae.data.probe import ANIMATED_WEBP, is_animated_webp
from cvmae.data.video_files import alike_there
from cvmae.data.video_input import DecodeError, Video, VideoInput, name_of
from cvmae.files import LFS_POINTER, is_lfs_pointer
from cvmae.storage.cache import RemoteFile, open_binary
from cvmae.storage.path import is_remote


def read_table(source: Video) -> FrameTable:
    """Returns the frame table of a video, given as the functions below take it. Raises: DecodeError."""
    with _reading(source) as video:
        return video.table()


def stored_pixel_aspect(source: Video) -> Fraction:
    """Returns the width of a stored pixel over its height, 1 where the file says nothing. Raises: DecodeError."""
    with _reading(source) as video:
        return video.stored_pixel_aspect()


def read_frames(source: Video, indices, *, table: FrameTable | None = None) -> np.ndarray:
    """Decodes frames by index: uint8 [T, H, W, 3], RGB, upright, in the order of `indices`.

    Args:
      source: a path, also one with a scheme, the bytes of an encoded file, or a file in a bucket.
      indices: int [T], indices into the frame table, in any order, repeats allowed.
      table: the frame table of the file, if it was read before.

    Raises:
      DecodeError: the file cannot be read.
      ValueError: an index is out of range.
    """
    with _reading(source) as video:
        return video.frames(table or video.table(), np.asarray(indices, np.int64))


def read_chosen(source: Video, choose: Callable[[FrameTable], np.ndarray]) -> np.ndarray:
    """Decodes the frames that `choose` selects from the frame table, uint8 [T, H, W, 3], and opens the file only once.

    Args:
      source: a path, also one with a scheme, the bytes of an encoded file, or a file in a bucket.
      choose: maps the frame table to indices, int [T], as `read_frames` takes them.

    Raises:
      DecodeError: the file cannot be read.
      ValueError: an index is out of range.
    """
    with _reading(source) as video:
        table = video.table()
        return video.frames(table, np.asarray(choose(table), np.int64))


def stream_chosen(source: Video, choose: Callable[[FrameTable], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, uint8 [H, W, 3]) of the frames that `choose` selects, one at a time, for videos of any length.

    The file is opened and its table read once, before the first frame.

    Args:
      source: a path, also one with a scheme, the bytes of an encoded file, or a file in a bucket.
      choose: maps the frame table to indices, int [k], ascending, without repeats.

    Raises:
      DecodeError: the file cannot be read.
    """
    with _reading(source) as video:
        table = video.table()
        yield from video.stream(table, np.asarray(choose(table), np.int64))


def each_frame(source: Video, table: FrameTable | None = None) -> Iterator[av.VideoFrame]:
    """Yields every frame of a video in display order as decoded: neither converted to RGB nor turned upright.

    Args:
      source: a path, also one with a scheme, the bytes of an encoded file, or a file in a bucket.
      table: of the video. Frames that it lacks, since the end of the file cuts them off, are left out then. If it is reliable,
        frames have its pts.

    Raises:
      DecodeError: the file cannot be read, or a frame is damaged.
    """
    with _reading(source) as video:
        yield from video.each_frame(table)


@contextlib.contextmanager
def _reading(source: Video):
    """Opens a video and turns errors of FFmpeg in the block into a DecodeError."""
    name = name_of(source)
    try:
        with contextlib.closing(VideoInput(source, name)) as file, contextlib.closing(OpenVideo(file, name)) as video:
            yield video
    except (av.error.FFmpegError, DecodeError, OSError) as error:
        head = _head(source)
        if head == b"":  # FFmpeg would speak of invalid data
            raise DecodeError(name, "the file has 0 bytes: copy it again, or leave it out") from error
        if head is not None and is_lfs_pointer(head):  # FFmpeg would say what it takes the text for
            raise DecodeError(name, LFS_POINTER) from error
        if head is not None and is_animated_webp(head):  # FFmpeg passes its frames over
            raise DecodeError(name, ANIMATED_WEBP) from error
        if isinstance(error, DecodeError):
            raise
        is_absent = isinstance(error, FileNotFoundError) and isinstance(source, str) and not is_remote(source)
        other = alike_there(name) if is_absent else ""
        raise DecodeError(name, (error.strerror or str(error)) + (other and f"; {other}")) from error


def _head(source: Video) -> bytes | None:
    """Returns the first bytes of a video; None where it cannot be read."""
    if isinstance(source, bytes):
        return source[:64]
    try:
        with source.open() if isinstance(source, RemoteFile) else open_binary(source) as file:
            return file.read(64)
    except OSError:
        return None
