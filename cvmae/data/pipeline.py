"""Grain input pipeline, from the records of a source to batches of clips.

The stream of training clips is a function of (seed, number of records, position in the stream) alone. It is batched before it
is divided among processes and workers, so their number and a restart do not change the global batch of a step.
"""

import contextlib
import dataclasses
from typing import Protocol

import grain
import numpy as np

from cvmae.data import clips, decode
from cvmae.data.bad_files import REPORT_BYTES, BadDataError, pack_failures
from cvmae.data.lines import one_line
from cvmae.data.loader import Loader
from cvmae.data.manifest import UNLABELED
from cvmae.data.mixture import Mixture, part_range
from cvmae.data.proportions import EPOCHS, clip_indices_of
from cvmae.data.records import Record, Source, UnreadableError
from cvmae.data.timeout import TimeLimitError, call_with_limit
from cvmae.storage import counters

ATTEMPTS = 8  # records tried for one clip before the run stops
# Of an evaluation, which starts its own workers; fewer are read before a worker process is there (1.4 s of a core).
EXAMPLES_OF_A_WORKER = 32
ARRAY_FPS = 25.0  # frames per second assumed for videos stored as arrays


def clip_spec(config, *, for_views: bool = False) -> clips.ClipSpec:
    """Returns the ClipSpec of a config; `for_views` adds the frames of views that begin later. Raises: ValueError, naming the field."""
    data, image = config.data, config.get("image_branch")  # downstream tasks have no image branch and sample no frames
    height, width = data.frame_size
    return clips.ClipSpec(
        num_frames=data.num_frames,
        stride=data.stride,
        fps=data.fps,
        height=height,
        width=width,
        fit=data.fit,
        sampling=data.clip_sampling,
        num_sampled=image.frames if image else 0,
        frame_sampling=image.frame_sampling if image else "middle",
        square_pixels=data.get("square_pixels", False),  # configs before version 0.2 have no such field
        extra=config.augment.get("plus_shift", 0) if for_views else 0,  # downstream tasks have no such field
        clips=config.get("probe", {}).get("clips", 1),  # only attentive probes have the field
    )


def make_loader(config, source: Source, *, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> Loader:
    """Makes a loader of endless training batches, reshuffled every epoch, beginning with the batch of step `start_step`.

    The global batch has config.batch_size = B clips; process p of P gets the examples [p b, (p + 1) b), b = B / P. A batch is
    a dict of

        video        uint8 [b, T, H0, W0, 3]
        frame_index  int32 [b, F]   frames of the image branch, as indices into the clip
        label        int32 [b]      -1: unlabeled
        index        int64 [b]      record in the source
        failures     uint8 [b, 512] records that had to be replaced (see `bad_files`), zeros for none
        draw         int64 [b, 2]   seed of what is random about the clip, and how many records were replaced before it
        source       int32 [b]      only of a mixture: the number of the source

    With config.probe.clips = N, T is that of N clips of a video, one after the other, see `clips.clip_indices`.

    Raises:
      ValueError: B is not divisible by P, or the source is empty.
      BadDataError: from next(), if ATTEMPTS records in a row cannot be read.
    """
    if config.batch_size % process_count:
        raise ValueError(f"batch_size={config.batch_size} is not divisible by {process_count} processes")
    if not len(source):
        raise ValueError("the source holds no records")
    read = _ReadTraining(
        Reader(source, clip_spec(config, for_views=True), config.data.timeout_s, _part_specs(config, source, True))
    )
    if isinstance(source, Mixture):
        stream = clip_indices_of(source, config.seed, config.batch_size).seed(config.seed)
    else:
        stream = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat(EPOCHS)
    batches = stream.random_map(read).batch(config.batch_size // process_count)
    return Loader(batches[start_step * process_count + process_index :: process_count], config.data)


def make_eval_loader(config, source: Source, batch_size: int, start: int = 0, **shard) -> Loader:
    """Makes a deterministic loader of every record once, in order, from record `start`; random choices become the middle ones.

    Batches are those of `make_loader`, with `valid`, bool [b]: False for padding of the last batch and for records that cannot
    be read, which are not replaced here. Such examples are zeros, with label -1. shard: process_index and process_count, see
    `padded_loader`.
    """
    return padded_loader(
        _EvaluationExamples(evaluation_reader(config, source, for_views=True)), batch_size, config.data, start, **shard
    )


def evaluation_reader(config, source: Source, *, for_views: bool = False) -> "Reader":
    """Returns a reader of clips without random choices; `for_views`: see `clip_spec`."""
    specs = tuple(spec.deterministic() for spec in _part_specs(config, source, for_views))
    return Reader(source, clip_spec(config, for_views=for_views).deterministic(), config.data.timeout_s, specs)


def _part_specs(config, source, for_views: bool) -> tuple[clips.ClipSpec, ...]:
    """Returns the ClipSpec of each source of a mixture; () for any other source."""
    sampling = source.sampling if isinstance(source, Mixture) else ()
    return tuple(dataclasses.replace(clip_spec(config, for_views=for_views), **changes) for changes in sampling)


class Examples(Protocol):
    """Random access to the examples of an evaluation."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Reads example `number`. Raises: UnreadableError."""

    def blank(self, number: int) -> dict[str, np.ndarray]:
        """Returns an example of the same shapes for a number that cannot be read or is beyond the last."""


def padded_loader(
    examples: Examples, batch_size: int, data, start: int = 0, process_index: int = 0, process_count: int = 1
) -> Loader:
    """Makes a loader of the examples from `start` on, once, in order, with the last batch padded to batch_size.

    Adds `valid` and `failures` to each example, see `make_eval_loader`. A few examples are read by fewer workers than data.workers, or by none. Of each batch, process p of P reads the examples
    [p b, (p + 1) b), b = batch_size / P; all processes get the same number of batches.
    """
    count = -(-max(0, len(examples) - start) // batch_size) * batch_size
    batches = grain.MapDataset.range(start, start + count).map(_ReadEvaluation(examples)).batch(batch_size // process_count)
    batches = batches[process_index::process_count]
    return Loader(batches, data, min(data.workers, len(batches), count // process_count // EXAMPLES_OF_A_WORKER))


@contextlib.contextmanager
def unreadable(record: Record):
    """Turns errors of a video in the block, and its time limit, into an UnreadableError of the record."""
    name = record.name
    try:
        yield
    except decode.DecodeError as error:
        is_there = not isinstance(error.__cause__, FileNotFoundError)
        raise UnreadableError(name, f"{error.reason}{record.listed_at if is_there else record.listed}") from error
    except clips.ClipError as error:
        raise UnreadableError(name, f"{error}{record.listed_at}") from error
    except TimeLimitError as error:
        raise UnreadableError(name, f"{error} (data.timeout_s){record.listed_at}") from error


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reader of clips by the number of their record.

    Attributes:
      source: the records.
      spec: of the clips.
      timeout_s: the limit for one clip, or for those that are read together, in seconds.
      part_specs: of the clips of each source of a mixture, in place of `spec`.
    """

    source: Source
    spec: clips.ClipSpec
    timeout_s: float
    part_specs: tuple[clips.ClipSpec, ...] = ()

    def cut(self, index: int, rng: np.random.Generator, view: clips.ClipView = clips.MIDDLE) -> tuple[Record, list[np.ndarray]]:
        """Returns a record, and the crops of one clip of it, each uint8 [T, H0, W0, 3]. Raises: UnreadableError."""
        with counters.timed():
            record = self.source[index]
        part, own = self.part_of(index), counters.current()
        spec = self.part_specs[part] if part is not None else self.spec
        if isinstance(record.payload, bytes):
            counters.add(bytes_read=len(record.payload))

        def cut():
            with counters.counting(own), counters.timed(reads_files=isinstance(record.payload, str)):
                return cut_clip(record, spec, rng, view)

        with unreadable(record):
            return record, call_with_limit(cut, self.timeout_s)

    def part_of(self, index: int) -> int | None:
        """Returns the number of the source of a record in a mixture; None without a mixture."""
        return self.source.part_of(index) if isinstance(self.source, Mixture) else None

    def read(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Reads an example of a single clip. Raises: UnreadableError."""
        spec = self.spec
        record, [video] = self.cut(index, rng)
        frame_index = clips.sample_frame_index(spec.num_sampled, spec.frame_sampling, spec.num_frames, rng)
        return _example(video, frame_index, record.label, index)

    def blank_clip(self) -> np.ndarray:
        """Returns a clip of zeros, of the shape of those that are read."""
        return np.zeros((self.spec.length, self.spec.height, self.spec.width, 3), np.uint8)


def _example(video, frame_index, label, index):
    return {"video": video, "frame_index": frame_index, "label": np.int32(label), "index": np.int64(index)}


def cut_clip(record: Record, spec: clips.ClipSpec, rng, view: clips.ClipView = clips.MIDDLE) -> list[np.ndarray]:
    """Decodes, samples and resizes one clip of a record, or those that are read together, which is all that the host does to it.

    Returns the crops of the clip, each uint8 [T, H0, W0, 3], T = `spec.length`.

    Raises:
      DecodeError: the video cannot be decoded.
      ClipError: the record's part of the video holds no frame.
    """

    aspect, places = 1.0, np.empty(0, int)

    def choose(times):
        # A frame that repeats is decoded and resized once: all of a picture, the end of a short video, what clips have in common.
        nonlocal places
        indices = clips.clip_indices(spec, times, rng, record.start, record.end, view)
        distinct, places = np.unique(indices, return_inverse=True)
        return distinct

    def choose_from(table):
        nonlocal aspect
        aspect = table.pixel_aspect if spec.square_pixels else 1.0
        return choose(table.times)

    if isinstance(record.payload, np.ndarray):
        frames = record.payload[choose(np.arange(len(record.payload)) / ARRAY_FPS)]
    else:
        frames = decode.read_chosen(record.payload, choose_from)
    size = spec.height, spec.width
    crops = [clips.fit_frames(frames, *size, spec.fit, crop, view.crops, aspect) for crop in range(view.crops)]
    return crops if np.array_equal(places, np.arange(len(frames))) else [crop[places] for crop in crops]


@dataclasses.dataclass(frozen=True)
class _ReadTraining(grain.transforms.RandomMap):
    """Reads a training example; an unreadable record is replaced by a random other one, the same for the same seed and step."""

    reader: Reader

    def random_map(self, index, rng):
        """Returns the example of record `index`, or of the first readable one drawn after it. Raises: BadDataError."""
        key, failures, own = int(rng.integers(2**63)), [], counters.Counters()
        part, (low, high) = self.reader.part_of(index), part_range(self.reader.source, index)
        while len(failures) < ATTEMPTS:
            # Each attempt has its own generator: a decoder that ran into the time limit may still be using the previous one.
            draw = np.array([key, len(failures)], np.int64)
            attempt_rng = np.random.default_rng(draw)
            if failures:
                index = low + int(attempt_rng.integers(high - low))
            try:
                with counters.counting(own):
                    example = self.reader.read(index, attempt_rng)
            except UnreadableError as error:
                failures.append(error.args)
                own.add(unreadable=1)
            else:
                own.add(clips=1)
                example |= {"failures": pack_failures(failures), "draw": draw, counters.KEY: own.values()}
                return example if part is None else example | {"source": np.int32(part)}
        names = ", ".join(dict.fromkeys(one_line(name) for name, _ in failures))
        raise BadDataError(f"{ATTEMPTS} videos in a row cannot be read ({names}); the first: {failures[0][1]}")


@dataclasses.dataclass(frozen=True)
class _EvaluationExamples:
    """Example i is the middle clip of record i."""

    reader: Reader

    def __len__(self):
        return len(self.reader.source)

    def read(self, number):
        return self.reader.read(number, np.random.default_rng(0))

    def blank(self, number):
        return _example(self.reader.blank_clip(), np.zeros(self.reader.spec.num_sampled, np.int32), UNLABELED, number)


@dataclasses.dataclass(frozen=True)
class _ReadEvaluation(grain.transforms.Map):
    examples: Examples

    def map(self, index):
        """Returns example `index`; a blank one, with `valid` False, for an unreadable record and beyond the last."""
        failures = np.zeros(REPORT_BYTES, np.uint8)
        example, valid = None, index < len(self.examples)
        if valid:
            try:
                example = self.examples.read(index)
            except UnreadableError as error:
                failures, valid = pack_failures([error.args]), False
        return (example or self.examples.blank(index)) | {"failures": failures, "valid": np.bool_(valid)}
