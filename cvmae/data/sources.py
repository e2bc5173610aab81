"""Random-access sources of records, one small class for each value of config.data.source."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from cvmae.config import ConfigError, config_errors
from cvmae.data.custom import find_split
from cvmae.data.hf_source import HfSource
from cvmae.data.manifest import Entry, Manifest, ManifestError, read_manifest
from cvmae.data.mixture import open_mixture
from cvmae.data.published import how_to_prepare
from cvmae.data.records import Record, Source, SplitError, part_key
from cvmae.data.subset import Subset, choose, parse_split, strata
from cvmae.data.synthetic import SyntheticSource
from cvmae.data.tar_source import TarSource
from cvmae.data.tfds_source import TfdsSource
from cvmae.storage.cache import FileCache, RemoteFile
from cvmae.storage.path import is_remote, real_names

_SHOWN = 60  # last characters of a manifest's path in a message
_SPLITS = ("split", "eval_split", "test_split")
KINDS = ("files", "tfds", "motion", "synthetic", "webdataset", "hf", "custom")


def make_source(data, split: str, custom: Mapping[str, Source] | None = None) -> Source:
    """Opens the source of a config for a split.

    Args:
      data: config.data.
      split: such as `train`, or a part of it (see `subset`). With tfds a slice is one of tfds: `train[:1%]` is then the first
        records, regardless of classes.
      custom: for data.source=custom, the sources of the splits by name, see `custom.by_split`.

    Raises:
      ManifestError: the manifest cannot be read.
      SplitError: there is no such split, or its slice holds no clip.
      ValueError: a field is wrong, or a mixture cannot be made; the message names it.
    """
    if data.get("mixture"):
        return open_mixture(data, split, make_source)
    if data.get("multi_label") and data.source not in ("files", "custom"):
        raise ValueError(f"data.multi_label=True needs data.source=files, labels separated by ; in a manifest, not {data.source}")
    if data.source == "tfds":
        return TfdsSource(split=split, **data.tfds.to_dict())
    name, part = parse_split(split)
    source = find_split(custom, name, data.get("multi_label", False)) if data.source == "custom" else _full_split(data, name)
    return source if part is None else Subset(source, choose(strata(source), part))


def file_cache(data) -> FileCache | None:
    """Returns the local cache of config.data for files in buckets; None where none is asked for."""
    folder = data.get("cache_dir", "")  # configs before the field lack it
    return FileCache(folder, int(data.cache_gb * 1e9)) if folder else None


def open_split(data, field: str, custom: Mapping[str, Source] | None = None) -> Source:
    """Opens the source of the split that config.data.`field` names, `split`, `eval_split` or `test_split`; see `make_source`.

    Raises:
      ConfigError: it cannot be opened; the message names the field.
    """
    with config_errors("data" if field == "split" else f"data.{field}"):
        try:
            return make_source(data, data[field], custom)
        except SplitError as error:
            raise ConfigError(
                f"config.data.{field}={data[field]!r}: {error} (--config.data.{field}=NAME sets another)"
            ) from error


def _full_split(data, split: str) -> Source:
    if data.source == "files":
        if not data.manifest:
            remedy = how_to_prepare(data.get("name", ""))
            raise ValueError(f"data.source=files needs data.manifest, a CSV or JSON-lines file with path,label,split{remedy}")
        try:
            several, pictures = data.get("multi_label", False), data.get("pictures", False)
            manifest = read_manifest(data.manifest, split, data.root, several, pictures, _splits_of(data))
            return FileSource(manifest, file_cache(data))
        except ManifestError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            remedy = how_to_prepare(data.get("name", "")) if isinstance(error.__cause__, FileNotFoundError) else ""
            raise ManifestError(f"{error}, and set data.manifest to it{remedy}") from error
    if data.source == "motion":
        # Imported here: rendering needs the package with the photographs, reading does not.
        from cvmae.data import motion

        # Its columns for people are meant to be there.
        return FileSource(dataclasses.replace(read_manifest(motion.prepare(**data.motion.to_dict()), split), notes=()))
    if data.source == "webdataset":
        return TarSource(data.webdataset.shards, split, data.get("pictures", False), file_cache(data))
    if data.source == "hf":
        return HfSource(split=split, cache=file_cache(data), **data.hf.to_dict())
    if data.source == "synthetic":
        # Long enough for a random start to matter, short enough to cost nothing.
        height, width = data.frame_size
        frames = 2 * data.num_frames * data.stride
        return SyntheticSource(data.synthetic.clips, data.synthetic.classes, frames, height, width, split)
    raise ValueError(f"data.source must be one of {', '.join(KINDS)}, got {data.source!r}")


def _splits_of(data) -> list[str]:
    """Returns the names of the splits of config.data, each once and without its slice."""
    names = (data.get(field) or "" for field in _SPLITS)
    return list(dict.fromkeys(name.partition("[")[0] for name in names if name))


class FileSource:
    """Source of the videos in a manifest; of those in buckets, copies are kept in `cache`."""

    def __init__(self, manifest: Manifest, cache: FileCache | None = None):
        self._entries, self._folder, self._cache = manifest.entries, manifest.folder, cache
        self._manifest, self._root = manifest.path, manifest.root
        self.class_names, self.notes = manifest.class_names, manifest.notes
        self.labels = np.array([entry.label for entry in manifest.entries], np.int32)
        self.label_sets = None if manifest.label_sets is None else _table(manifest.label_sets, len(manifest.class_names))

    def __len__(self):
        return len(self._entries)

    def __getitem__(self, index):
        entry = self._entries[index]
        payload = RemoteFile(entry.path, self._cache) if is_remote(entry.path) else entry.path
        return Record(entry.path, entry.label, entry.start, entry.end, payload, *self._listing(entry))

    def _listing(self, entry: Entry) -> tuple[str, str]:
        """Returns `Record.manifest_line` and `Record.relative_to`, short enough for a list of unreadable files."""
        if not entry.line:
            return "", ""
        manifest = self._manifest if len(self._manifest) <= _SHOWN else f"...{self._manifest[-_SHOWN:]}"
        start = f"data.root={self._root}" if self._root else "no data.root, so from its folder"
        # An absolute path is relative to nothing.
        return f"{manifest}:{entry.line}", start if entry.path.startswith(self._folder) else ""

    def key(self, index):
        """Returns the path relative to the manifest's folder, with `@START-END` if only a part of the video is used."""
        entry = self._entries[index]
        return part_key(self._relative(entry.path), entry.start, entry.end)

    def _relative(self, file: str) -> str:
        if is_remote(file):
            folder = self._folder.rstrip("/") + "/"
            return file.removeprefix(folder) if file.startswith(folder) else f"elsewhere/{file.partition('://')[2]}"
        path = pathlib.Path(file if is_remote(self._folder) else os.path.relpath(file, self._folder))
        if ".." in path.parts or path.is_absolute():  # outside the folder
            path = pathlib.Path("elsewhere", *pathlib.Path(os.path.abspath(file)).parts[1:])
        return path.as_posix()

    def video_file(self, index) -> str:
        """Returns the path of the file of a record."""
        return self._entries[index].path

    def parts(self) -> list[tuple[str, float | None, float | None]]:
        """Returns (file, start, end) of every record; a file has one name, however it is written and through whatever links."""
        name = real_names()
        return [(name(entry.path), entry.start, entry.end) for entry in self._entries]

    @property
    def identity(self) -> str:
        return self.digests[1]

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """Hashes of the keys, and of keys and labels: both at once, as the keys of a large set take seconds."""
        state = _hash_keys(self)
        of_keys = state.hexdigest()
        sets = b"" if self.label_sets is None else str(self.label_sets.shape).encode() + self.label_sets.tobytes()
        state.update(self.labels.tobytes() + sets)
        return of_keys, state.hexdigest()


def digest_keys(source: Source) -> str:
    """Returns a hash of the keys of all records, 32 hexadecimal digits: other ones for other records or another order of them."""
    return source.digests[0] if isinstance(source, FileSource) else _hash_keys(source).hexdigest()


def _hash_keys(source: Source):
    return hashlib.blake2b("\n".join(source.key(index) for index in range(len(source))).encode(), digest_size=16)


def _table(label_sets: tuple[tuple[int, ...], ...], classes: int) -> np.ndarray:
    """Returns sets of class numbers as bool [S, C]; `classes` of 0 takes C from the highest number."""
    table = np.zeros((len(label_sets), classes or max((1 + numbers[-1] for numbers in label_sets if numbers), default=0)), bool)
    for row, numbers in enumerate(label_sets):
        table[row, list(numbers)] = True
    return table
