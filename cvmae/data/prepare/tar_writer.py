"""Writes the videos of a manifest into tar shards, `--shards=webdataset`, and indices beside shards, `--index=PATTERN`.

In `out` are `SPLIT-000000.tar`, ... with an index beside each, and `classes.csv` where classes have names. A sample has the video
under its own extension, `cls` with its class number where it is labeled, and `json` with `start` and `end` where only a part is used.
"""

import hashlib
import io
import json
import os
import re
import tarfile

from cvmae.data.label_texts import CLASSES, TO_LEARN_NONE, TO_LEARN_SEVERAL
from cvmae.data.lines import one_line
from cvmae.data.manifest import ManifestError, read_manifest, splits_of
from cvmae.data.prepare.outputs import write_classes
from cvmae.data.prepare.text import PrepareError
from cvmae.data.row_checks import compare_rows
from cvmae.data.sources import FileSource
from cvmae.data.tar_shards import expand, load_index
from cvmae.data.video_files import EXTENSIONS, PICTURES
from cvmae.files import replacing, write_json
from cvmae.storage.cache import RemoteFile, open_binary
from cvmae.storage.client import check_scheme, raise_of_store
from cvmae.storage.path import as_path, exists, is_remote, join
from cvmae.storage.remote_path import RemotePath

SHARD_BYTES = 256 * 2**20
PLAN = "shards.json"  # what the shards hold: a folder of other shards is never continued


def write_shards(manifest: str, out: str, root: str = "", shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Writes all splits of a manifest into tar shards, each atomically; a repeated run writes those that are missing.

    Prints notes about rows, such as videos in two splits.

    Args:
      manifest: a CSV or JSON-lines file, see `data.manifest`.
      out: the folder of the shards.
      root: base of relative paths; "": the folder of the manifest.
      shard_bytes: size of the videos above which a shard is not filled further.

    Returns:
      The paths of the shards.

    Raises:
      PrepareError: the manifest or a video cannot be read, or `out` has other shards.
      ConfigError: a path has a scheme that is not supported.
    """
    check_scheme(manifest, "--manifest=")
    check_scheme(root, "--root=")
    check_scheme(out, "--out=", is_written=True)
    try:
        sources = {split: FileSource(read_manifest(manifest, split, root)) for split in splits_of(manifest)}
    except ManifestError as error:
        # A shard has one label for a video, and this command no field of a config.
        text = str(error).replace(
            TO_LEARN_NONE, "shards have one label for a video, so read this manifest itself, data.source=files"
        )
        raise PrepareError(text.replace(f"; {TO_LEARN_SEVERAL}", "")) from error
    for note in _notes(sources):
        print(f"note: {note}")
    plan: dict[str, tuple[FileSource, dict[int, int]]] = {}
    for split, source in sources.items():
        if not re.fullmatch(r"[\w.-]+", split):
            raise PrepareError(f"{manifest}: split {split!r} cannot be in the name of a file; rename it")
        plan |= {f"{split}-{number:06d}.tar": (source, sizes) for number, sizes in enumerate(_cut(source, shard_bytes))}
    _check_plan(out, plan)
    names = next(iter(sources.values())).class_names
    if names:
        write_classes(out, names)
    paths = []
    for name, (source, sizes) in plan.items():
        path = join(out, name)
        if not exists(path):
            with replacing(path) as temporary:
                _write(temporary, source, sizes)
        load_index(path)
        paths.append(path)
    return paths


def _notes(sources: dict[str, FileSource]) -> list[str]:
    """Returns what a run on the manifest would say of its rows: one on shards, which hold copies, can no longer tell."""
    of_manifest = dict.fromkeys(note for source in sources.values() for note in source.notes)
    compared = compare_rows({f"split {split}": source for split, source in sources.items()}, "split train", labeled=True)
    return [*of_manifest, *(finding.note for finding in compared)]


def index_shards(pattern: str) -> tuple[int, int]:
    """Makes the indices of the shards of a pattern that lack one; returns the numbers of shards and of videos. Raises: PrepareError or ConfigError."""
    check_scheme(pattern, "--index=", is_written=True)
    try:
        paths = expand(pattern)
        videos = 0
        for path in paths:
            index, note = load_index(path)
            if note:
                raise PrepareError(f"{note}; make the folder writable")
            videos += len(index.samples)
    except ManifestError as error:
        raise PrepareError(str(error)) from error
    return len(paths), videos


def _cut(source, shard_bytes) -> list[dict[int, int]]:
    """Returns the bytes of the video of every record of each shard, by the number of the record."""
    shards: list[dict[int, int]] = [{}]
    filled = 0
    for index in range(len(source)):
        size = _size(source[index])
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][index] = size
        filled += size
    return shards


def _path(record) -> str:
    """Returns the path of a record's video, also with a scheme."""
    return record.payload.url if isinstance(record.payload, RemoteFile) else record.payload


def _size(record) -> int:
    path = _path(record)
    try:
        return RemotePath(path).status().size if is_remote(path) else os.path.getsize(path)
    except OSError as error:
        raise_of_store(error)
        raise PrepareError(f"{one_line(path)}: {error.strerror}{record.listed}; remove it from the manifest") from error


def _check_plan(out, plan) -> None:
    """Keeps a digest of the plan in `out`. Raises: PrepareError, there is another one."""
    state = hashlib.blake2b(digest_size=16)
    for name, (source, sizes) in plan.items():
        rows = [(source.key(index), int(source.labels[index]), size) for index, size in sizes.items()]
        state.update(f"{name} {rows} {source.class_names}".encode())
    folder = as_path(out)
    path = folder / PLAN
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != {"digest": state.hexdigest()}:
            raise PrepareError(f"--out={out} has the shards of another manifest; give a new folder")
    elif any(file.name.endswith(".tar") or file.name == CLASSES for file in folder.iterdir()):
        raise PrepareError(f"--out={out} has shards or a {CLASSES} that this command did not write; give a new folder")
    write_json(path, {"digest": state.hexdigest()})


def _write(path, source, indices) -> None:
    keys: set[str] = set()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for index in indices:
            record, key = source[index], _key(source.key(index), keys)
            video = _path(record)
            extension = os.path.splitext(video)[1].lower()
            try:
                with open_binary(video) as file:
                    _add(tar, f"{key}{extension if extension in EXTENSIONS | PICTURES else '.mp4'}", file.read())
            except OSError as error:
                raise_of_store(error)
                raise PrepareError(f"{one_line(video)}: {error.strerror}{record.listed}; remove it from the manifest") from error
            if record.label >= 0:
                _add(tar, f"{key}.cls", str(record.label).encode())
            part = {name: value for name, value in (("start", record.start), ("end", record.end)) if value is not None}
            if part:
                _add(tar, f"{key}.json", json.dumps(part).encode())


def _key(path, taken) -> str:
    """Returns a key without dots that no other sample of the shard has, and remembers it."""
    stem, at, part = path.partition("@")
    plain = (os.path.splitext(stem)[0] + at + part).replace(".", "_")
    key, number = plain, 1
    while key in taken:
        number += 1
        key = f"{plain}-{number}"
    taken.add(key)
    return key


def _add(tar, name, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without times and owners: the same videos give the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
