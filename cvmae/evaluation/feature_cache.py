"""Features kept on disk: made once, gone on with after an interruption, and never mixed up with those of something else."""

import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator

import jax
import numpy as np

from cvmae.config import ConfigError, flatten
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.pipeline import clip_spec
from cvmae.evaluation.features import COLUMNS, Features, FeatureSpec, feature_rows, make_encode
from cvmae.evaluation.multi_view import whole_batch
from cvmae.files import replacing, write_json
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement

IDENTITY = "identity.json"
SHARD_ROWS = 2048  # of 768 values: 6 MiB; what an interruption costs
_ENCODER = ("variant", "tubelet", "positions", "cls_token", "qkv_bias", "eps", "final_norm")


def fingerprint(params) -> str:
    """A text that is another one where any parameter is another."""
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def encoder_identity(config, params, spec: FeatureSpec) -> dict:
    """What features depend on, but for the videos: encoder, how clips are cut and cropped, what is taken of the encoder."""
    clips = dataclasses.asdict(clip_spec(config).deterministic())
    return {
        "parameters": fingerprint(params),
        "encoder": {name: config.video_branch[name] for name in _ENCODER} | {"dtype": config.dtype},
        "clips": {name: value for name, value in clips.items() if name not in ("num_sampled", "frame_sampling")},
        "augment": {name: config.augment[name] for name in ("size", "mean", "std")},
        "features": dataclasses.asdict(spec),
    }


def open_cache(folder, identity: dict, layout: dict | None = None) -> dict:
    """Makes `folder`, or checks that what is in it has this identity. Returns the layout that it was begun with.

    Raises:
      ConfigError: it holds something else; the message says in what.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / IDENTITY, json.loads(json.dumps(identity))
    if processes.is_main_process() and not path.exists():
        write_json(path, {"identity": wanted, "layout": layout or {}})
    processes.barrier(f"claimed {folder}")
    if not path.exists():
        raise ConfigError(
            f"{path}, which another process wrote, is not here: --workdir must be a folder that all processes share"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["identity"] != wanted:
        there, here = (flatten(value) for value in (found["identity"], wanted))
        differs = [
            f"{name} {there.get(name)} and not {here.get(name)}" for name in here | there if there.get(name) != here.get(name)
        ]
        raise ConfigError(
            f"{folder} holds features of something else: {'; '.join(differs[:4])}. Give another --workdir, or delete that folder"
        )
    return found["layout"]


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
    """The features of every readable clip of a source, from `folder` as far as they are there.

    Of several processes each makes a part of the shards that are missing; all return all.

    Args:
      folder: of these features alone.
      config: says the encoder, the clips and the batch size (in crops); the batch size may change between runs.
      params: of the video encoder.
      source: see `data.sources`.
      views: clips and crops of every record; crops are averaged, clips are rows of their own (see `features.mean_over_clips`).
      spec: what of the encoder.
      placement: of batches on the devices.
      bad_files: the list of videos that cannot be read; None keeps none.
      encode: from `features.make_encode` of the same config and spec, where several sources share one.

    Raises:
      ConfigError: the folder holds features of something else, or the source has no record.
    """
    if not len(source):
        raise ConfigError("there is no video to make features of")
    encode = encode or make_encode(config, spec, placement)
    identity = encoder_identity(config, params, spec) | {"views": dataclasses.asdict(views), "source": source.identity}
    size = whole_batch(max(1, config.batch_size // views.crops // jax.process_count()))

    def read(row):
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

    # Whole batches make a shard, so that a run which goes on at a shard cuts the very batches of one which was not interrupted.
    return cached_rows(folder, identity, len(source) * views.clips, read, -(-SHARD_ROWS // size) * size)


def cached_rows(folder, identity: dict, rows: int, read: Callable[[int], Generator[dict]], shard_rows: int) -> Features:
    """Rows kept in shards of `shard_rows`, each a file that is there whole or not at all; one that is damaged is made again.

    Args:
      folder: where.
      identity: what the rows are of, for JSON.
      rows: how many, those that are not valid included.
      read: from a row on, batches of `COLUMNS` and `valid`, as `features.feature_rows`. Rows behind the last are left out.
      shard_rows: of a new folder; one that was begun keeps its own.

    Raises:
      ConfigError: the folder holds something else.
    """
    folder = pathlib.Path(folder)
    shard_rows = open_cache(folder, identity | {"rows": rows}, {"shard_rows": shard_rows})["shard_rows"]
    starts = range(0, rows, shard_rows)
    shards = [_load(folder, number) for number in range(len(starts))]
    processes.barrier(f"looked at {folder}")  # before any writes, so that all see the same ones missing
    for first, last in _stretches(process_slice([number for number, shard in enumerate(shards) if shard is None])):
        sizes = [min(shard_rows, rows - start) for start in starts[first:last]]
        with contextlib.closing(read(starts[first])) as batches:
            for number, columns in enumerate(_cut(batches, sizes), first):
                _save(folder, number, columns)
                shards[number] = columns
    processes.barrier(f"filled {folder}")
    filled = [_load(folder, number) if shard is None else shard for number, shard in enumerate(shards)]
    present = [shard for shard in filled if shard is not None]
    if len(present) < len(filled):
        raise ConfigError(
            f"{folder} lacks features that another process made: --workdir must be a folder that all processes share"
        )
    return Features(*(np.concatenate([shard[name] for shard in present]) for name in COLUMNS))


def process_slice(todo: list) -> list:
    """What this process has to do of a list that every process has: a stretch of it."""
    process, count = jax.process_index(), jax.process_count()
    return todo[len(todo) * process // count : len(todo) * (process + 1) // count]


def _stretches(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches [first, last) of rising numbers that follow one another."""
    start = 0
    for place, number in enumerate(numbers, 1):
        if place == len(numbers) or numbers[place] != number + 1:
            yield numbers[start], number + 1
            start = place


def _cut(batches: Iterator[dict], sizes: Iterable[int]) -> Iterator[dict[str, np.ndarray]]:
    """The valid rows of stretches of so many rows."""
    waiting, count = [], 0
    for size in sizes:
        while count < size:
            waiting.append(next(batches))
            count += len(waiting[-1]["valid"])
        rows = {name: np.concatenate([batch[name] for batch in waiting]) for name in waiting[0]}
        yield {name: rows[name][:size][rows["valid"][:size]] for name in COLUMNS}
        waiting, count = [{name: column[size:] for name, column in rows.items()}], count - size


def _save(folder: pathlib.Path, number: int, columns: dict[str, np.ndarray]) -> None:
    """Writes a shard as NUMBER-CHECKSUM.npz; the checksum is that of the file."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **columns)
    with replacing(folder / f"{number:05d}-{_checksum(content.getvalue())}.npz") as temporary:
        temporary.write_bytes(content.getvalue())


def _load(folder: pathlib.Path, number: int) -> dict[str, np.ndarray] | None:
    """A shard; None where it is missing. One whose bytes are not those that were written is deleted."""
    for path in folder.glob(f"{number:05d}-*.npz"):
        content = path.read_bytes()
        if path.stem.partition("-")[2] == _checksum(content):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in COLUMNS}
        path.unlink()
    return None


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
