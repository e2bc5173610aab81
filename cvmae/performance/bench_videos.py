"""Video files for measurements, encoded here by PyAV: the same photographs, panned, by every codec and in every container."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import cast

import av
import cv2
import numpy as np

from cvmae.data.motion import photos

NOISE = 3.0  # standard deviation of every frame's own noise, of 255: frames differ also where nothing moves, as a camera's do
ZOOM = 1.25  # the photograph over the frame, which is the room to pan in


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """Size of the videos.

    Attributes:
      count: number of videos of each coding.
      frames: of each.
      fps: frames per second.
      height, width: in pixels, even.
    """

    count: int = 2
    frames: int = 300
    fps: int = 30
    height: int = 256
    width: int = 340


@dataclasses.dataclass(frozen=True)
class Coding:
    """An encoder with its options.

    Attributes:
      name: for the table.
      encoder: FFmpeg's name.
      options: of it; the rest are its defaults.
    """

    name: str
    encoder: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)


RATE = {"b": "700k"}  # bits per second, about those of Kinetics at this size
H264 = Coding("H.264, gop 12", "libx264", RATE | {"g": "12"})
CODINGS = (
    H264,
    Coding("H.264, gop 250", "libx264", RATE | {"g": "250"}),
    Coding("VP9", "libvpx-vp9", RATE | {"deadline": "realtime", "cpu-used": "6"}),
    Coding("HEVC", "libx265", RATE | {"preset": "fast", "x265-params": "log-level=none"}),
)
CONTAINERS = ("mp4", "mkv")  # both take every coding above


def has_encoder(coding: Coding) -> bool:
    """Returns True if the FFmpeg of PyAV has the encoder; those of its wheels have all of CODINGS."""
    try:
        return av.Codec(coding.encoder, "w").is_encoder
    except av.codec.codec.UnknownCodecError:
        return False


def photographs(spec: VideoSpec, number: int) -> Iterator[np.ndarray]:
    """Yields the frames of a video, uint8 [H, W, 3], RGB: a photograph that moves along a curve, with noise.

    Args:
      spec: number of frames and size.
      number: of the video; it chooses the photograph, the curve and the noise.
    """
    rng = np.random.default_rng(number)
    names = photos.PHOTOGRAPHS["train"]
    size = int(spec.width * ZOOM), int(spec.height * ZOOM)
    image = cv2.resize(photos.load(names[number % len(names)]), size, interpolation=cv2.INTER_AREA)
    room, periods, phase = np.subtract(size, (spec.width, spec.height)), rng.uniform(60, 180, 2), rng.uniform(0, 2 * np.pi, 2)
    for index in range(spec.frames):
        x, y = (room * (1 + np.sin(2 * np.pi * index / periods + phase)) / 2).astype(int)
        frame = image[y : y + spec.height, x : x + spec.width]
        noisy = frame + rng.normal(0, NOISE, frame.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def encode(path: pathlib.Path, coding: Coding, spec: VideoSpec, number: int) -> None:
    """Encodes a video into a new file, whose suffix gives the container. Raises: av.FFmpegError."""
    with av.open(str(path), "w") as file:
        stream = cast(av.VideoStream, file.add_stream(coding.encoder, rate=spec.fps, options=dict(coding.options)))
        stream.height, stream.width, stream.pix_fmt = spec.height, spec.width, "yuv420p"
        for image in photographs(spec, number):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())


def remux(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the packets of a video into a new file with another container. Raises: av.FFmpegError."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:  # the last one is empty
                packet.stream = stream
                new.mux(packet)


def write_videos(folder: pathlib.Path, coding: Coding, spec: VideoSpec) -> dict[str, list[pathlib.Path]]:
    """Writes `spec.count` videos into a folder: {container: paths}, with the same packets in each container.

    Raises:
      av.FFmpegError: the encoder is missing or failed, or the disk is full.
    """
    paths: dict[str, list[pathlib.Path]] = {container: [] for container in CONTAINERS}
    for number in range(spec.count):
        stem = f"{coding.encoder}-g{coding.options.get('g', '')}-{number}"
        first, *others = (folder / f"{stem}.{container}" for container in CONTAINERS)
        encode(first, coding, spec, number)
        for other in others:
            remux(first, other)
        for container, path in zip(CONTAINERS, (first, *others)):
            paths[container].append(path)
    return paths
