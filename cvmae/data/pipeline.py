"""From records to batches of clips, with Grain.

The stream of training clips is a function of (seed, number of records, position in the stream) alone. Batches are cut out
of it before anything is divided, so neither processes nor workers nor a restart change what global batch a step gets.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import threading
from typing import Protocol

import grain
import numpy as np
from absl import flags

from cvmae.data import clips, decode
from cvmae.data.bad_files import REPORT_BYTES, BadDataError, pack_failures
from cvmae.data.manifest import UNLABELED
from cvmae.data.sources import Record, Source
from cvmae.data.timeout import TimeLimitError, call_with_limit

ATTEMPTS = 8  # records tried for one clip before the data as a whole is called bad
PASSES = 2**31  # endless for any run; repeat(None) overflows Grain's arithmetic where a process has one row of a batch
ARRAY_FPS = 25.0  # frames per second that videos stored as bare arrays are taken to have


def clip_spec(config) -> clips.ClipSpec:
    """How the config wants clips cut. Raises: ValueError naming the field."""
    data, image = config.data, config.get("image_branch")  # downstream there is no image branch, and no frame to sample
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
    )


def make_loader(config, source: Source, *, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> "Loader":
    """Endless training batches from step `start_step` on, shuffled anew in every pass over the source.

    Of a global batch of config.batch_size = B clips, process p of P gets rows [p b, (p + 1) b), b = B / P. A batch is a dict of

        video        uint8 [b, T, H0, W0, 3]
        frame_index  int32 [b, F]   places inside the clip of the image branch's frames
        label        int32 [b]      -1: unlabeled
        index        int64 [b]      record in the source
        failures     uint8 [b, 512] records that had to be replaced (see bad_files), zeros for none

    Raises: ValueError where B does not divide by P or the source is empty; next() raises BadDataError when ATTEMPTS records in
    a row cannot be read.
    """
    if config.batch_size % process_count:
        raise ValueError(f"batch_size={config.batch_size} does not divide by {process_count} processes")
    if not len(source):
        raise ValueError("the source holds no records")
    read = _ReadTraining(Reader(source, clip_spec(config), config.data.timeout_s))
    stream = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat(PASSES).random_map(read)
    batches = stream.batch(config.batch_size // process_count)
    return Loader(batches[start_step * process_count + process_index :: process_count], config.data)


def make_eval_loader(config, source: Source, batch_size: int, start: int = 0, **share) -> "Loader":
    """Every record from `start` on once, in order, with every random choice put in the middle; the same each time.

    Batches are as make_loader's, with `valid`, bool [b]: False for the rows that fill up the last batch, and for records that
    cannot be read, which are not replaced here. Such rows are zeros, with label -1. share: process_index and process_count, see
    padded_loader.
    """
    return padded_loader(_EvaluationRows(evaluation_reader(config, source)), batch_size, config.data, start, **share)


def evaluation_reader(config, source: Source) -> "Reader":
    """A reader whose clips hold nothing random."""
    return Reader(source, clip_spec(config).deterministic(), config.data.timeout_s)


class Rows(Protocol):
    """What evaluation batches are made of."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> dict[str, np.ndarray]:
        """One row. Raises: UnreadableError."""

    def blank(self, number: int) -> dict[str, np.ndarray]:
        """A row of the same shapes for a number that cannot be read or is beyond the last."""


def padded_loader(rows: Rows, batch_size: int, data, start: int = 0, process_index: int = 0, process_count: int = 1) -> "Loader":
    """The rows from `start` on, once, in order, in batches of batch_size; see make_eval_loader for `valid` and `failures`.

    Of each batch, process p of P reads rows [p b, (p + 1) b), b = batch_size / P, and gets as many batches as the others.
    """
    count = -(-max(0, len(rows) - start) // batch_size) * batch_size
    batches = grain.MapDataset.range(start, start + count).map(_ReadEvaluation(rows)).batch(batch_size // process_count)
    return Loader(batches[process_index::process_count], data)


class Loader:
    """Iterator over the batches of a Grain dataset; close() ends its threads and worker processes."""

    def __init__(self, batches: grain.MapDataset, data):
        # Grain's workers look at flags, which a library or a notebook has not parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Grain's own defaults would hold 500 batches in memory in every process.
        ahead = max(data.prefetch, data.threads) if data.threads else 0
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead))
        if data.workers:
            options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=max(1, data.prefetch))
            dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
        self._iterator = iter(dataset)

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def close(self):
        """Ends the loader; it cannot be used afterwards."""
        self._iterator.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker when the process it works for is gone; after a kill -9 nobody else would."""
    del index, count
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cvmae-end-with-parent").start()


class UnreadableError(Exception):
    """One record cannot be read: its name and the reason."""


@contextlib.contextmanager
def unreadable(name: str):
    """Turns what may go wrong with a video in the block into an UnreadableError of the record with this name."""
    try:
        yield
    except decode.DecodeError as error:
        raise UnreadableError(name, error.reason) from error
    except clips.ClipError as error:
        raise UnreadableError(name, str(error)) from error
    except TimeLimitError as error:
        raise UnreadableError(name, f"{error} (data.timeout_s)") from error


@dataclasses.dataclass(frozen=True)
class Reader:
    """Record number -> clips of it."""

    source: Source
    spec: clips.ClipSpec
    timeout_s: float

    def cut(self, index: int, rng: np.random.Generator, view: clips.ClipView = clips.MIDDLE) -> tuple[Record, list[np.ndarray]]:
        """The record, and the crops of one clip, each uint8 [T, H0, W0, 3]. Raises: UnreadableError."""
        record = self.source[index]
        with unreadable(record.name):
            return record, call_with_limit(lambda: cut_clip(record, self.spec, rng, view), self.timeout_s)

    def read(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row of a batch of single clips. Raises: UnreadableError."""
        spec = self.spec
        record, [video] = self.cut(index, rng)
        frame_index = clips.sample_frame_index(spec.num_sampled, spec.frame_sampling, spec.num_frames, rng)
        return _row(video, frame_index, record.label, index)

    def blank_clip(self) -> np.ndarray:
        """uint8 [T, H0, W0, 3] of zeros."""
        return np.zeros((self.spec.num_frames, self.spec.height, self.spec.width, 3), np.uint8)


def _row(video, frame_index, label, index):
    return {"video": video, "frame_index": frame_index, "label": np.int32(label), "index": np.int64(index)}


def cut_clip(record: Record, spec: clips.ClipSpec, rng, view: clips.ClipView = clips.MIDDLE) -> list[np.ndarray]:
    """The crops of one clip of a record, each uint8 [T, H0, W0, 3]: everything that is done to it on the host.

    Raises: DecodeError or ClipError.
    """

    def choose(times):
        return clips.clip_indices(spec, times, rng, record.start, record.end, view)

    if isinstance(record.payload, np.ndarray):
        frames = record.payload[choose(np.arange(len(record.payload)) / ARRAY_FPS)]
    else:
        frames = decode.read_chosen(record.payload, lambda table: choose(table.times))
    return [clips.fit_frames(frames, spec.height, spec.width, spec.fit, crop, view.crops) for crop in range(view.crops)]


@dataclasses.dataclass(frozen=True)
class _ReadTraining(grain.transforms.RandomMap):
    """A record that cannot be read is replaced by another, the same one whenever a run with this seed comes by here."""

    reader: Reader

    def random_map(self, index, rng):
        key, failures = int(rng.integers(2**63)), []
        while len(failures) < ATTEMPTS:
            # Each attempt has a generator of its own: a decoder that was given up may still be using the last one.
            attempt_rng = np.random.default_rng([key, len(failures)])
            if failures:
                index = int(attempt_rng.integers(len(self.reader.source)))
            try:
                row = self.reader.read(index, attempt_rng)
            except UnreadableError as error:
                failures.append(error.args)
            else:
                return row | {"failures": pack_failures(failures)}
        names = ", ".join(dict.fromkeys(name for name, _ in failures))
        raise BadDataError(f"{ATTEMPTS} videos in a row cannot be read ({names}); the first: {failures[0][1]}")


@dataclasses.dataclass(frozen=True)
class _EvaluationRows:
    """Row r is the middle clip of record r."""

    reader: Reader

    def __len__(self):
        return len(self.reader.source)

    def read(self, number):
        return self.reader.read(number, np.random.default_rng(0))

    def blank(self, number):
        return _row(self.reader.blank_clip(), np.zeros(self.reader.spec.num_sampled, np.int32), UNLABELED, number)


@dataclasses.dataclass(frozen=True)
class _ReadEvaluation(grain.transforms.Map):
    rows: Rows

    def map(self, index):
        failures = np.zeros(REPORT_BYTES, np.uint8)
        row, valid = None, index < len(self.rows)
        if valid:
            try:
                row = self.rows.read(index)
            except UnreadableError as error:
                failures, valid = pack_failures([error.args]), False
        return (row or self.rows.blank(index)) | {"failures": failures, "valid": np.bool_(valid)}
