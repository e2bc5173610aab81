"""Small video files with numbered frames, for the tests of this folder."""

from fractions import Fraction

import av
import numpy as np

BLOCK = 16  # side of one bit of the number, in pixels: coarse enough to survive any codec


def numbered_frame(number: int, height: int = 32, width: int = 64) -> np.ndarray:
    """Draws a frame uint8 [H, W, 3] of noise, with the number's 8 bits as 2 rows of 4 black or white blocks in the upper left."""
    frame = np.random.default_rng(number).integers(100, 156, (height, width, 3), dtype=np.uint8)
    for bit in range(8):
        y, x = BLOCK * (bit // 4), BLOCK * (bit % 4)
        frame[y : y + BLOCK, x : x + BLOCK] = 235 if number >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """Reads the number in a decoded frame, uint8 [H, W, 3]; fails if there is none."""
    number = 0
    for bit in range(8):
        y, x = BLOCK * (bit // 4), BLOCK * (bit % 4)
        level = frame[y + 4 : y + BLOCK - 4, x + 4 : x + BLOCK - 4].mean()
        assert not 80 < level < 170, f"bit {bit} is neither black nor white but {level:.0f}"
        number |= int(level > 128) << bit
    return number


def numbers_of(frames: np.ndarray) -> list[int]:
    """Reads the number of each frame of uint8 [T, H, W, 3]."""
    return [number_of(frame) for frame in frames]


def write_video(
    path,
    count=40,
    *,
    first=0,
    codec="libx264",
    size=(32, 64),
    fps=12,
    options=None,
    pts=None,
    rotation=None,
    container=None,
    aspect=None,
):
    """Encodes `count` frames, numbered from `first` on, into a file and returns its path as a str.

    Args:
      path: the file to write.
      count: number of frames.
      first: number of the first frame.
      codec: encoder of FFmpeg.
      size: (H, W).
      fps: frames per second.
      options: of the encoder; None: for H.264, three B-frames between references.
      pts: one integer per frame, in milliseconds; None: a constant frame rate.
      rotation: degrees, written as a display matrix.
      container: FFmpeg's options of the file.
      aspect: width of a pixel over its height; None: square.
    """
    if options is None and codec == "libx264":
        options = {"bf": "3", "b_strategy": "0", "g": "20", "preset": "veryfast"}
    with av.open(str(path), "w", container_options=container or {}) as file:
        stream = file.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = size
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        stream.pix_fmt = "yuv420p" if size[0] % 2 == 0 == size[1] % 2 else "yuv444p"
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(first + number, *size), "rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return str(path)


def without_picture(path, index):
    """Marks a frame of an MPEG-4 file at 12 frames per second as `not coded`: its packet repeats the previous picture."""
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][index]
    data = bytearray(path.read_bytes())
    header = data.index(b"\0\0\1\xb6", packet.pos) + 4
    bits = list(f"{int.from_bytes(data[header : header + 4], 'big'):032b}")
    assert bits[:3] == list("010") and bits[3] == bits[8] == bits[9] == "1"  # P, the second, marker, time, marker, coded
    bits[9] = "0"
    data[header : header + 4] = int("".join(bits), 2).to_bytes(4, "big")
    path.write_bytes(data)
