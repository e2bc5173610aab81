"""A look into a file or an open container: whether it holds a video, and which of its streams is it."""

import os
from typing import Any

import av
from av.stream import Disposition

from cvmae.files import LFS_POINTER, is_lfs_pointer
from cvmae.storage.cache import open_binary
from cvmae.storage.path import is_remote

# A title in an old encoding must not make a video unreadable. PyAV 19 replaces such bytes by default and has no such option.
TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}

SCRIPTS = frozenset(("concat", "hls"))  # formats that name other files, which FFmpeg would read
PICTURE = "a picture"  # the reason of `no_video` for a file of one
ANIMATED_WEBP = "an animated WebP, which this FFmpeg does not decode: convert it to MP4 or GIF"

# Codecs that draw text files.
_TEXT = frozenset(("ansi", "bintext", "idf", "xbin"))


def video_stream(container):
    """Returns the video stream of a PyAV container that a player would show, None without one; cover pictures do not count."""
    best = container.streams.best("video")
    streams = ([] if best is None else [best]) + list(container.streams.video)
    return next((stream for stream in streams if not is_picture(stream)), None)


def is_picture(stream) -> bool:
    """Returns True for the picture that is attached to a file, the cover of a song or the preview of a video."""
    return bool(stream.disposition & Disposition.attached_pic)


def is_animated_webp(head: bytes) -> bool:
    """Returns True for the first bytes, at least 21, of an animated WebP."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:21]) and bool(head[20] & 2)


def no_video(path: str) -> str:
    """Returns the reason why a file is not taken for a video by its content; "" if it is one."""
    try:
        with open_binary(path) as file:
            head = file.read(64)
            if is_lfs_pointer(head):
                return LFS_POINTER
            file.seek(0)
            with av.open(file if is_remote(path) else os.path.abspath(path), **TOLERANT) as container:
                stream = video_stream(container)
                if stream is None:
                    return "no video stream, only a picture" if container.streams.video else "no video stream"
                name = container.format.name
                if name in SCRIPTS:
                    return "a playlist"
                if stream.codec_context is None:
                    return "no decoder for its video codec"
                if stream.codec_context.name in _TEXT:
                    return "text"
                if name.endswith("_pipe") or name == "image2":
                    return ANIMATED_WEBP if is_animated_webp(head) else PICTURE
                if name == "gif" and sum(1 for packet, _ in zip(container.demux(stream), range(2)) if packet.size) < 2:
                    return PICTURE
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"no video: {getattr(error, 'strerror', None) or error}"
    return ""
