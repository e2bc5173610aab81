"""On-disk cache of features: resumed after an interruption, and checked against the encoder and the data it was computed from.

Each shard also has the stamps of its videos (`data.stamps`), where these are files or of a source given to `cvmae.run`: if one was replaced
since, the shard is computed again.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import jax
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.stamps import Stamps
from cvmae.evaluation.feature_identity import encoder_identity, open_cache
from cvmae.evaluation.features import COLUMNS, Features, FeatureSpec, feature_rows, make_encode
from cvmae.evaluation.multi_view import whole_batch
from cvmae.files import replacing, set_aside
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.storage.path import AnyPath, as_path

SHARD_ROWS = 2048  # 6 MiB of 768 values a row; an interruption loses at most one shard
SHARD_NAME = re.compile(r"(?:.*/)?[0-9]{5,}-[0-9a-f]{16}")  # without its suffix, see `_save`
_STAMPS = "stamps"  # of a shard, uint64 [rows], 0 where a video could not be looked at; absent in those of earlier versions
_THREADS = 16  # that look at videos


def cached_features(
    folder,
    config,
    params,
    source,
    views: TestViews,
    spec: FeatureSpec,
    *,
    placement: Placement = HOST,
    bad_files: BadFiles | None = None,
    encode: Callable | None = None,
) -> Features:
    """Returns the features of every readable clip of a source, computing only those that are not in the cache `folder`.

    Labels are those that the source has now. Each process computes a part of the missing shards; all processes return all features.

    Args:
      folder: the cache, which must contain nothing but these features.
      config: the config, with the encoder, the clips and the batch size (in crops); the batch size may change between runs.
      params: parameters of the video encoder.
      source: see `data.sources`.
      views: clips and crops per record; crops are averaged, clips have rows of their own (see `features.mean_over_clips`).
      spec: the features to extract.
      placement: the placement of batches on devices.
      bad_files: collects unreadable videos; None for no list.
      encode: from `features.make_encode` of the same config and spec, to share one compiled function between sources.

    Raises:
      ConfigError: the cache holds features of other settings, or the source has no record.
    """
    if not len(source):
        raise ConfigError("there is no video to extract features from")
    encode = encode or make_encode(config, spec, placement)
    identity = encoder_identity(config, params, spec) | {"views": dataclasses.asdict(views), "source": source.identity}
    size = whole_batch(max(1, config.batch_size // views.crops // jax.process_count()))

    def read(row):
        """Yields the features of the rows from `row` on."""
        return feature_rows(
            config,
            lambda video: encode(params, video),
            source,
            size,
            views,
            placement=placement,
            bad_files=bad_files,
            start_row=row,
        )

    # A shard is a multiple of the batch, so that a run that resumes at a shard has the same batches as an uninterrupted one.
    rows, shard_rows = len(source) * views.clips, -(-SHARD_ROWS // size) * size
    stamps = video_stamps(source)
    stamps = None if stamps is None else stamps.repeat(views.clips)
    features = cached_rows(folder, identity, rows, read, shard_rows, stamps, config)
    return dataclasses.replace(features, labels=np.asarray(source.labels)[features.index])


def video_stamps(source) -> np.ndarray | None:
    """Returns a number for every record that is another one when its video was replaced, uint64 [n], 0 for a video that cannot be looked at.

    None for a source of this package whose videos would have to be read for this, which `source.identity` tells apart.
    """
    stamps = Stamps(source)
    if not stamps.are_needed:
        return None

    def number(index: int) -> int:
        stamp = stamps.of(index)
        if stamp is None or stamp.text is None:
            return 0
        return int.from_bytes(hashlib.blake2b(repr(stamp).encode(), digest_size=8).digest(), "little")

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        own = list(pool.map(number, process_slice(range(len(source)))))
    # What one process has seen holds for all, so that all compute the same shards.
    return np.array([value for part in processes.allgather_json(own) for value in part], np.uint64)


def cached_rows(
    folder,
    identity: dict,
    rows: int,
    read: Callable[[int], Generator[dict]],
    shard_rows: int,
    stamps: np.ndarray | None = None,
    config=None,
) -> Features:
    """Returns rows cached in shards of `shard_rows`, each a file that is written atomically; damaged shards are recomputed.

    Args:
      folder: the cache.
      identity: the settings that the rows depend on, for JSON.
      rows: the number of rows, including those that are not valid.
      read: a function from the first row to batches of `COLUMNS` and `valid`, see `features.feature_rows`; rows beyond `rows`
        are dropped.
      shard_rows: rows per shard of a new cache; an existing cache keeps its own.
      stamps: of the video of every row, see `video_stamps`; shards with others are recomputed. None compares nothing.
      config: see `open_cache`.

    Raises:
      ConfigError: the cache has another identity.
    """
    folder = as_path(folder)
    shard_rows = open_cache(folder, identity | {"rows": rows}, {"shard_rows": shard_rows}, config)["shard_rows"]
    starts = range(0, rows, shard_rows)
    expected = [None if stamps is None else stamps[start : start + shard_rows] for start in starts]
    shards = [_load(folder, number, expected[number]) for number in range(len(starts))]
    if any(shard is not None and _STAMPS not in shard for shard in shards) and stamps is not None:
        processes.log_once(
            f"{folder}: features of an earlier version, which did not record their videos: whether a video was replaced since cannot be "
            "checked; move the folder away to recompute them"
        )
    processes.barrier(f"looked at {folder}")  # before any write, so that all processes see the same missing shards
    for first, last in _stretches(process_slice([number for number, shard in enumerate(shards) if shard is None])):
        sizes = [min(shard_rows, rows - start) for start in starts[first:last]]
        with contextlib.closing(read(starts[first])) as batches:
            for number, columns in enumerate(_cut(batches, sizes), first):
                more = expected[number]
                shard = columns if more is None else columns | {_STAMPS: more}
                _save(folder, number, shard)
                shards[number] = shard
    processes.barrier(f"filled {folder}")
    filled = [_load(folder, number, expected[number]) if shard is None else shard for number, shard in enumerate(shards)]
    present = [shard for shard in filled if shard is not None]
    if len(present) < len(filled):
        raise ConfigError(
            f"{folder} lacks features that another process made: --workdir must be a folder that all processes share"
        )
    return Features(*(np.concatenate([shard[name] for shard in present]) for name in COLUMNS))


def process_slice(todo: Sequence) -> Sequence:
    """Returns this process's part of a list of work that all processes have: consecutive entries."""
    process, count = jax.process_index(), jax.process_count()
    return todo[len(todo) * process // count : len(todo) * (process + 1) // count]


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields maximal ranges [first, last) of consecutive integers in an ascending list."""
    start = 0
    for position, number in enumerate(numbers, 1):
        if position == len(numbers) or numbers[position] != number + 1:
            yield numbers[start], number + 1
            start = position


def _cut(batches: Iterator[dict], sizes: Iterable[int]) -> Iterator[dict[str, np.ndarray]]:
    """Splits batches into pieces of `sizes` rows, and yields the valid rows of each."""
    waiting, count = [], 0
    for size in sizes:
        while count < size:
            waiting.append(next(batches))
            count += len(waiting[-1]["valid"])
        rows = {name: np.concatenate([batch[name] for batch in waiting]) for name in waiting[0]}
        yield {name: rows[name][:size][rows["valid"][:size]] for name in COLUMNS}
        waiting, count = [{name: column[size:] for name, column in rows.items()}], count - size


def _save(folder: AnyPath, number: int, columns: dict[str, np.ndarray]) -> None:
    """Writes a shard as NUMBER-CHECKSUM.npz, with the checksum of the file, and deletes an outdated one."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **columns)
    path = folder / f"{number:05d}-{_checksum(content.getvalue())}.npz"
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
    others: list[AnyPath] = [other for other in folder.glob(f"{number:05d}-*.npz") if other != path]
    for other in others:
        other.unlink(missing_ok=True)


def _load(folder: AnyPath, number: int, stamps: np.ndarray | None) -> dict[str, np.ndarray] | None:
    """Loads a shard; returns None if it is missing, or has other stamps. A shard whose checksum does not match is set aside."""
    for path in folder.glob(f"{number:05d}-*.npz"):
        content = path.read_bytes() if path.is_file() else b""
        if path.stem.partition("-")[2] == _checksum(content):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                columns = dict(arrays)
            # A video that cannot be looked at now has no stamp to compare.
            others = 0 if stamps is None else int(((stamps != columns.get(_STAMPS, stamps)) & (stamps != 0)).sum())
            if not others:
                return columns
            processes.log_once(
                f"{path}: {others:,} of its clips are of videos that were replaced: its features are computed again"
            )
            continue
        with contextlib.suppress(FileNotFoundError):  # another process was first
            processes.log_once(f"{path} is damaged: set aside as {set_aside(path).name}, its features are computed again")
    return None


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
