"""Decoding of random clips by this package and by other libraries, one thread each, from the same files and in alternating rounds."""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import pathlib
import re
import tempfile
import traceback
from collections.abc import Callable, Sequence

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from cvmae.data import clips, decode
from cvmae.parallel.progress import evaluation_bar
from cvmae.performance.bench_videos import Coding, VideoSpec, write_videos
from cvmae.performance.timing import Times, alternate

# Takes a path and frame indices, int [T], ascending; returns uint8 [T, H, W, 3], RGB.
Reader = Callable[[str, np.ndarray], np.ndarray]
Clip = tuple[str, np.ndarray]
OURS = "cvmae"
# Of 255. FFmpeg's releases differ in the last bits of the conversion from YUV to RGB; frames of different times differ by more.
TOLERANCE = 3


@dataclasses.dataclass(frozen=True)
class Library:
    """A library that decodes.

    Attributes:
      name: for the table.
      module: that it is imported by.
      make: returns its reader, and raises ImportError or RuntimeError where it cannot be loaded.
      install: how to get it.
    """

    name: str
    module: str
    make: Callable[[], Reader]
    install: str = ""


def _ours() -> Reader:
    return decode.read_frames


def full_decode(path: str, indices: np.ndarray) -> np.ndarray:
    """Decodes a video from its beginning to the last frame of `indices`, int [T], ascending, and returns those frames."""
    images, wanted, convert = {}, set(indices.tolist()), VideoReformatter()
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                images[number] = convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
            if number == indices[-1]:
                break
    return np.stack([images[number] for number in indices.tolist()])


def _torchcodec(seek_mode: str) -> Reader:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def read(path, indices):
        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
        return decoder.get_frames_at(indices.tolist()).data.numpy()

    return read


def _decord() -> Reader:
    import decord

    def read(path, indices):
        return decord.VideoReader(path, num_threads=1).get_batch(indices.tolist()).asnumpy()

    return read


_TORCHCODEC = (
    "pip install 'crossvideomae[decoders]', FFmpeg's shared libraries on the loader's path, and torch of the kind, CPU or CUDA, of "
    "torchcodec's wheel"
)
LIBRARIES = (
    Library(OURS, "cvmae", _ours),
    Library("PyAV, full decode", "av", lambda: full_decode),
    Library("torchcodec, exact", "torchcodec", lambda: _torchcodec("exact"), _TORCHCODEC),
    Library("torchcodec, approximate", "torchcodec", lambda: _torchcodec("approximate"), _TORCHCODEC),
    Library("decord", "decord", _decord, "pip install 'crossvideomae[decoders]'"),
)


def available(libraries: Sequence[Library] = LIBRARIES) -> tuple[dict[str, Reader], list[str]]:
    """Returns the readers of the libraries that can be loaded here, by name, and a line for each of the others."""
    readers, notes = {}, []
    for library in libraries:
        if importlib.util.find_spec(library.module) is None:
            notes.append(f"{library.name} is not installed: {library.install}")
            continue
        try:
            readers[library.name] = library.make()
        except (ImportError, RuntimeError, OSError) as error:
            notes.append(f"{library.name} cannot be loaded ({_reason(error)}): {library.install}")
    return readers, notes


def _reason(error: Exception) -> str:
    """Returns the first line of an error, and the shared libraries that are missing.

    torchcodec names them in tracebacks inside its message, or in the error that caused its own.
    """
    with_causes = "".join(traceback.format_exception(error, limit=0))  # without lines of source
    missing = dict.fromkeys(re.findall(r"(\S+): cannot open shared object file", with_causes))
    first = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    unnamed = [name for name in missing if name not in first]
    return f"{first} Missing: {', '.join(unnamed)}" if unnamed else first


def versions(readers: dict[str, Reader]) -> dict[str, str]:
    """Returns the versions of the packages behind the readers."""
    modules = {library.module for library in LIBRARIES if library.name in readers and library.name != OURS}
    return {module: importlib.metadata.version(module) for module in sorted(modules)}


@dataclasses.dataclass(frozen=True)
class DecodeTimes:
    """The measurement of one coding in one container.

    Attributes:
      coding: its name.
      container: `mp4` or `mkv`.
      megabits: per second of video.
      clips: in each round.
      times: rounds of every library.
      differences: of every library, the largest difference of a frame from a plain full decode of the file, of 255.
    """

    coding: str
    container: str
    megabits: float
    clips: int
    times: dict[str, Times]
    differences: dict[str, int]


def draw_clips(paths: Sequence[pathlib.Path], spec: clips.ClipSpec, count: int, rng: np.random.Generator) -> list[Clip]:
    """Draws `count` clips, one file after another: (path, frame indices).

    None has the last frame of a video, which libraries miss that count frames by the header's duration (torchcodec's approximate mode).
    """
    return [
        (str(path), clips.clip_indices(spec, decode.read_table(str(path)).times[:-1], rng))
        for path in itertools.islice(itertools.cycle(paths), count)
    ]


def largest_difference(reader: Reader, drawn: Sequence[Clip], expected: Sequence[np.ndarray]) -> int:
    """Returns the largest difference of a reader's frames from the `expected` ones of each clip, of 255; 255 where shapes differ."""
    largest = 0
    for (path, indices), images in zip(drawn, expected, strict=True):
        frames = reader(path, indices)
        if frames.shape != images.shape:
            return 255
        largest = max(largest, int(np.abs(frames.astype(np.int16) - images).max()))
    return largest


def time_readers(readers: dict[str, Reader], rounds: Sequence[Sequence[Clip]]) -> dict[str, Times]:
    """Times readers on the same clips, each round with its own; the first round is not timed."""

    def decoder(reader: Reader) -> Callable[[], None]:
        remaining = iter(rounds)

        def decode_round() -> None:
            for path, indices in next(remaining):
                reader(path, indices)

        return decode_round

    return alternate({name: decoder(reader) for name, reader in readers.items()}, len(rounds) - 1)


def measure_decoding(
    spec: clips.ClipSpec,
    *,
    rounds: int,
    clips_per_round: int = 4,
    videos: VideoSpec,
    codings: Sequence[Coding],
    readers: dict[str, Reader],
) -> list[DecodeTimes]:
    """Encodes videos into a temporary folder, compares every reader's frames with a full decode, and times the readers.

    A reader opens the file for every clip, as a loader does. What it takes to encode and to compare is not timed.

    Args:
      spec: how the frames of a clip are drawn; its size is not used, frames are compared and timed as stored.
      rounds: timed rounds, at least 2.
      clips_per_round: of every reader.
      videos: their size.
      codings: of the files.
      readers: by name.

    Raises:
      av.FFmpegError: a file cannot be encoded.
    """
    measured = []
    bar = evaluation_bar(len(codings), "decoding", "coding")
    for coding in codings:
        with tempfile.TemporaryDirectory() as folder:
            for container, paths in write_videos(pathlib.Path(folder), coding, videos).items():
                rng = np.random.default_rng(0)  # the same clips of every file
                drawn = [draw_clips(paths, spec, clips_per_round, rng) for _ in range(rounds + 1)]
                expected = [full_decode(path, indices) for path, indices in drawn[0]]
                differences = {name: largest_difference(reader, drawn[0], expected) for name, reader in readers.items()}
                size = sum(path.stat().st_size for path in paths)
                megabits = 8e-6 * size / (videos.count * videos.frames / videos.fps)
                times = time_readers(readers, drawn)
                measured.append(DecodeTimes(coding.name, container, megabits, clips_per_round, times, differences))
        bar.update()
    bar.close()
    return measured
