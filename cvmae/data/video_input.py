"""Opening of a video, given as a path, as the bytes of a file, or as a file in a bucket."""

import io
import os

import av

from cvmae.data.lines import one_line
from cvmae.data.probe import SCRIPTS, TOLERANT, video_stream
from cvmae.storage.cache import RemoteFile
from cvmae.storage.path import check_regular, is_remote

Video = str | bytes | RemoteFile  # a path, the bytes of an encoded file, or a file in a bucket


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
        return f"{one_line(self.name)}: {self.reason}"


def name_of(source: Video) -> str:
    """Returns the path of a video, or a description of its bytes."""
    if isinstance(source, RemoteFile):
        return source.url
    return source if isinstance(source, str) else f"<{len(source)} bytes>"


class VideoInput:
    """A video to open, more than once where it has to be read from its beginning.

    A file in a bucket stays open from the first time on, and the parts of it that were read stay in memory.

    Args:
      source: the video.
      name: for messages.

    Raises:
      OSError: a file in a bucket cannot be read.
    """

    def __init__(self, source: Video, name: str):
        remote = RemoteFile(source) if isinstance(source, str) and is_remote(source) else source
        self._source, self._name = source, name
        self._remote = remote.open() if isinstance(remote, RemoteFile) else None

    def open(self):
        """Returns a PyAV container and its video stream. Raises: DecodeError, av.FFmpegError, OSError."""
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._remote or self._source
        if self._remote is not None:
            self._remote.seek(0)
        if isinstance(file, str):
            check_regular(file)
            file = os.path.abspath(file)  # FFmpeg would take pipe:0 and other names with a colon for a protocol
        # FFmpeg would take a picture called 1%02d.jpg for a sequence of pictures.
        options = {"pattern_type": "none"} if isinstance(file, str) and "%" in file else {}
        container = av.open(file, options=options, **TOLERANT)
        if container.format.name in SCRIPTS:
            raise DecodeError(self._name, "a playlist, which names other files: list those")
        stream = video_stream(container)
        if stream is None:
            only = ", only a picture, such as the cover of a song" if container.streams.video else ""
            raise DecodeError(self._name, f"no video stream{only}")
        if stream.codec_context is None:
            raise DecodeError(self._name, "no decoder for its video codec")
        return container, stream

    def close(self) -> None:
        """Closes a file in a bucket."""
        if self._remote is not None:
            self._remote.close()
