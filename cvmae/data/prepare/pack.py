"""Packs the videos of a manifest into array_record shards, a data set that tensorflow-datasets reads without TensorFlow.

Records have `video` (the bytes of the file), `label`, `name`, and, if only a part of some video is used, `start` and `end`
in seconds (NaN for the file's own). Grain's ArrayRecordDataSource returns them as serialized tf.train.Example.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable

from cvmae.data.prepare.outputs import Row
from cvmae.data.prepare.work import identity
from cvmae.data.record_writer import RecordWriter
from cvmae.data.worker_pool import Failure, StopRun
from cvmae.files import REMEDIES
from cvmae.storage.cache import open_binary
from cvmae.storage.path import is_remote

SHARD_BYTES = 256 * 2**20
FUNCTION = f"{__name__}:write_shard"
_VERSION = "1.0.0"
_PLAN = "plan.json"


def pack(
    folder: str,
    out: str,
    dataset: str,
    rows: Iterable[tuple[Row, str]],
    classes: tuple[str, ...],
    run: Callable[[str, list[dict]], Iterable[tuple[dict, dict | Failure]]],
    temporary: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the packed set of some videos, unless `folder` is this set already.

    A run that was interrupted continues with the shards that are complete; `folder` appears when all of them are.

    Args:
      folder: of the packed set; a set of other videos in it is replaced.
      out: folder that the paths of `rows` are relative to.
      dataset: name of the set, as in --dataset.
      rows: pairs (video, split).
      classes: class names in the order of their numbers.
      run: calls a function for every job and yields pairs (job, answer), like worker_pool.run.
      temporary: folder for incomplete files, on the same file system.
      shard_bytes: size above which a shard is not filled further.

    Raises:
      StopRun: a video cannot be read, or a shard cannot be written.
    """
    plan = _plan(out, dataset, rows, classes, shard_bytes)
    digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
    if _digest_of(folder) == digest:
        return
    building = f"{folder}.building-{digest}"
    os.makedirs(building, exist_ok=True)
    for other in glob.glob(f"{glob.escape(folder)}.building-*"):
        if other != building:  # left by a run over other videos
            shutil.rmtree(other)
    files = {os.path.join(building, name): records for name, records in plan["shards"].items()}
    jobs = [
        {"target": path, "records": records, "classes": classes, "parts": plan["parts"], "temporary": temporary}
        for path, records in files.items()
        if not os.path.exists(path)
    ]
    for job, answer in run(FUNCTION, jobs):
        if isinstance(answer, Failure):
            raise StopRun(f"{job['target']}: {answer}")
    _write_metadata(building, dataset, plan)
    with open(os.path.join(building, _PLAN), "w", encoding="utf-8") as file:
        json.dump({"digest": digest}, file)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(building, folder)


def write_shard(job: dict) -> dict:
    """Writes the shard of a job, and returns {}. Raises: StopRun if a video cannot be read or the shard cannot be written."""
    features = _features(job["classes"], job["parts"])
    temporary = os.path.join(job["temporary"], os.path.basename(job["target"]) + f".{os.getpid()}")
    try:
        with RecordWriter(temporary) as writer:
            for record in job["records"]:
                writer.write(features.serialize_example(_example(record, features)))
        os.replace(temporary, job["target"])
    except OSError as error:
        remedy = f": {REMEDIES[error.errno]}, and run the same command again" if error.errno in REMEDIES else ""
        raise StopRun(f"{job['target']} cannot be written ({error.strerror or error}){remedy}") from error
    finally:
        with contextlib.suppress(OSError):  # it has its name, or was not begun
            os.unlink(temporary)
    return {}


def _example(record: dict, features) -> dict:
    """Returns a record with the bytes of its video. Raises: StopRun, it cannot be read."""
    try:
        with open_binary(record["path"]) as file:
            return {key: record[key] for key in features if key in record} | {"video": file.read()}
    except OSError as error:
        raise StopRun(f"{record['path']} cannot be read ({error.strerror or error}); run the same command again") from error


def _plan(out, dataset, rows, classes, shard_bytes):
    """Returns {dataset, classes, parts, shards: {file name: records}}; it changes whenever a video does."""
    number = {name: index for index, name in enumerate(classes)}
    rows = list(rows)
    parts = any(row.start is not None or row.end is not None for row, _ in rows)
    shards = {}
    for split in dict.fromkeys(split for _, split in rows):
        cut, size = [[]], 0
        for row in (row for row, row_split in rows if row_split == split):
            if cut[-1] and size + row.bytes > shard_bytes:
                cut.append([])
                size = 0
            size += row.bytes
            cut[-1].append(_record(out, row, number, parts))
        for index, records in enumerate(cut):
            shards[f"{dataset}-{split}.array_record-{index:05d}-of-{len(cut):05d}"] = records
    return {"dataset": dataset, "classes": classes, "parts": parts, "shards": shards}


def _record(out, row, number, parts):
    path = row.path if is_remote(row.path) else os.path.abspath(os.path.join(out, row.path))
    record = {"path": path, "file": identity(path), "name": row.name, "label": number.get(row.label, -1)}
    if parts:
        record |= {name: math.nan if value is None else value for name, value in (("start", row.start), ("end", row.end))}
    return record


def _features(classes, parts):
    import numpy as np
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=list(classes)) if classes else tfds.features.Scalar(np.int64)
    times = {name: tfds.features.Scalar(np.float32) for name in ("start", "end")} if parts else {}
    return tfds.features.FeaturesDict({"video": tfds.features.Text(), "label": label, "name": tfds.features.Text(), **times})


def _write_metadata(folder, dataset, plan):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.naming import ShardedFileTemplate

    lengths, sizes = {}, {}
    for name, records in plan["shards"].items():
        split = name.removeprefix(f"{dataset}-").partition(".")[0]
        lengths.setdefault(split, []).append(len(records))
        sizes[split] = sizes.get(split, 0) + os.path.getsize(os.path.join(folder, name))
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=lengths[split],
            num_bytes=sizes[split],
            filename_template=ShardedFileTemplate(
                data_dir=folder, dataset_name=dataset, split=split, filetype_suffix="array_record"
            ),
        )
        for split in lengths
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features(plan["classes"], plan["parts"]),
        split_infos=infos,
        version=_VERSION,
        check_data=False,  # the check needs TensorFlow
        description="Written by cvmae.data.prepare.",
    )


def _digest_of(folder):
    try:
        with open(os.path.join(folder, _PLAN), encoding="utf-8") as file:
            return json.load(file)["digest"]
    except (OSError, ValueError, KeyError):
        return ""
