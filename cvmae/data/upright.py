"""Decoded frames as a player shows them: RGB, turned and mirrored by the display matrix of the file."""

import threading

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataKind
from av.video.reformatter import VideoReformatter

_LOCAL = threading.local()


def _unlisted_kind(kinds, value: int):
    """Returns a kind of side data that PyAV does not list: PyAV 18 has no EXIF, which frames of JPEG have, and raises ValueError there."""
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNLISTED_{value}", value
    return kind


SideDataKind._missing_ = classmethod(_unlisted_kind)  # type: ignore[assignment, method-assign]


def is_transposed(frame: av.VideoFrame) -> bool:
    """Returns True if the width of a stored frame is the height of the displayed one."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return matrix is not None and _axes(matrix)[0]


def _axes(matrix) -> tuple[bool, int, int]:
    """Returns if x and y of a display matrix are exchanged, and then the signs of the displayed x and y."""
    # The matrix maps stored (x, y) to displayed (a x + c y, b x + d y); only quarter turns and mirrorings occur.
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).tolist()
    return (True, c, b) if abs(a) + abs(d) < abs(b) + abs(c) else (False, a, d)


def upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Converts a frame to RGB as displayed, uint8 [H, W, 3]."""
    # Creating a converter costs more than converting a small frame, so each thread keeps one. By default, a converter would
    # also start one thread per core for every frame.
    if not hasattr(_LOCAL, "reformatter"):
        _LOCAL.reformatter = VideoReformatter()
    image = _LOCAL.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    exchanged, x, y = _axes(matrix)
    image = image.swapaxes(0, 1) if exchanged else image
    return image[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
