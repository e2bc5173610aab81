"""Random-access sources of records, one small class for each value of config.data.source."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Protocol

import numpy as np

from cvmae.data.manifest import UNLABELED, Manifest, ManifestError, read_manifest
from cvmae.data.published import how_to_prepare
from cvmae.data.subset import Subset, choose, parse_split, strata

KINDS = ("files", "tfds", "motion", "synthetic")


@dataclasses.dataclass(frozen=True)
class Record:
    """A video, not decoded yet.

    Attributes:
      name: for error messages and bad_files.csv.
      label: class number, or with several labels the row of `Source.label_sets`; or UNLABELED.
      start, end: seconds, the part of the video to use; None: from its beginning, to its end.
      payload: a path, the bytes of an encoded file, or frames uint8 [n, H, W, 3].
    """

    name: str
    label: int
    start: float | None
    end: float | None
    payload: str | bytes | np.ndarray


class Source(Protocol):
    """Random access to records. Sources are pickled for worker processes, so they hold no open files.

    Attributes:
      class_names: () if classes have only numbers.
      labels: int32 [n], the label of every record, read without decoding a video.
      label_sets: may be absent, or None, if a video has one label, a class number. With several labels, bool [S, C]: row s has
        True for each class of the set of labels s, and `labels` are rows of this table, the same in all splits.
      identity: a text that differs if records or labels differ; it does not depend on the folder of the files.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def key(self, index: int) -> str:
        """Returns a relative path that names a record, without reading it; the same part of the same file has the same key."""


def make_source(data, split: str) -> Source:
    """Opens the source of a config for a split.

    Args:
      data: config.data.
      split: such as `train`, or a part of it (see `subset`). With tfds a slice is one of tfds: `train[:1%]` is then the first
        records, regardless of classes.

    Raises:
      ManifestError: the manifest cannot be read or has no such split.
      ValueError: a field is wrong; the message names it.
    """
    if data.get("multi_label") and data.source != "files":
        raise ValueError(f"data.multi_label=True needs data.source=files, labels separated by ; in a manifest, not {data.source}")
    if data.source == "tfds":
        return TfdsSource(split=split, **data.tfds.to_dict())
    name, part = parse_split(split)
    source = _full_split(data, name)
    return source if part is None else Subset(source, choose(strata(source), part))


def _full_split(data, split: str) -> Source:
    if data.source == "files":
        if not data.manifest:
            remedy = how_to_prepare(data.get("name", ""))
            raise ValueError(f"data.source=files needs data.manifest, a CSV or JSON-lines file with path,label,split{remedy}")
        try:
            return FileSource(read_manifest(data.manifest, split, data.root, data.get("multi_label", False)))
        except ManifestError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ManifestError(f"{error}{how_to_prepare(data.get('name', ''))}") from error
            raise
    if data.source == "motion":
        # Imported here: rendering needs the package with the photographs, reading does not.
        from cvmae.data import motion

        return FileSource(read_manifest(motion.prepare(**data.motion.to_dict()), split))
    if data.source == "synthetic":
        # Long enough for a random start to matter, short enough to cost nothing.
        height, width = data.frame_size
        frames = 2 * data.num_frames * data.stride
        return SyntheticSource(data.synthetic.clips, data.synthetic.classes, frames, height, width, split)
    raise ValueError(f"data.source must be one of {', '.join(KINDS)}, got {data.source!r}")


class FileSource:
    """Source of the videos in a manifest."""

    def __init__(self, manifest: Manifest):
        self._entries, self._folder = manifest.entries, manifest.folder
        self.class_names, self.notes = manifest.class_names, manifest.notes
        self.labels = np.array([entry.label for entry in manifest.entries], np.int32)
        self.label_sets = None if manifest.label_sets is None else _table(manifest.label_sets, len(manifest.class_names))

    def __len__(self):
        return len(self._entries)

    def __getitem__(self, index):
        entry = self._entries[index]
        return Record(entry.path, entry.label, entry.start, entry.end, entry.path)

    def key(self, index):
        """Returns the path relative to the manifest's folder, with `@START-END` if only a part of the video is used."""
        entry = self._entries[index]
        path = pathlib.Path(os.path.relpath(entry.path, self._folder))
        if ".." in path.parts:  # outside the folder
            path = pathlib.Path(os.path.abspath(entry.path))
            path = pathlib.Path("elsewhere", *path.parts[1:])
        part = ["" if seconds is None else str(seconds) for seconds in (entry.start, entry.end)]
        return path.as_posix() + (f"@{'-'.join(part)}" if any(part) else "")

    def parts(self) -> list[tuple[str, float | None, float | None]]:
        """Returns (file, start, end) of every record; a file has one name, however it is written."""
        return [(os.path.abspath(entry.path), entry.start, entry.end) for entry in self._entries]

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
    table = np.zeros((len(label_sets), classes or max((1 + numbers[-1] for numbers in label_sets), default=0)), bool)
    for row, numbers in enumerate(label_sets):
        table[row, list(numbers)] = True
    return table


class TfdsSource:
    """Source of a prepared tensorflow-datasets data set in ArrayRecord files, read without TensorFlow.

    Float features `start` and `end` are the part of the video to use, in seconds, as in a manifest; NaN: open.

    Args:
      name: data set, as `tfds.builder` takes it, or the folder of one prepared version.
      data_dir: folder of the data sets; "": the default of tfds.
      video_feature: name of the feature with the frames, Tensor uint8 [n, H, W, 3], or with an encoded file, Text holding its
        bytes (features.Video cannot be read without TensorFlow).
      label_feature: name of the feature with the label, an integer; "": unlabeled.
      split: as tfds takes it, with its slices.

    Raises:
      ValueError: a field of config.data.tfds is wrong; the message names it.
    """

    label_sets = None

    def __init__(self, name: str, data_dir: str, video_feature: str, label_feature: str, split: str):
        if not name:
            raise ValueError("data.source=tfds needs data.tfds.name, a set's name or the folder of a prepared version")
        self._name, self._data_dir, self._split = name, data_dir, split
        self._video, self._label = video_feature, label_feature
        features = self._builder.info.features
        for field, feature in (("video_feature", video_feature), ("label_feature", label_feature)):
            if feature and feature not in features:
                raise ValueError(f"data.tfds.{field}={feature!r} is not a feature of {name}; it has {', '.join(features)}")
        names = getattr(features[label_feature], "names", None) if label_feature else None
        self.class_names = tuple(names or ())

    def __getstate__(self):
        # Worker processes open the files themselves.
        return {key: value for key, value in vars(self).items() if key not in ("_builder", "_records")}

    @functools.cached_property
    def _builder(self):
        import tensorflow_datasets as tfds

        name = os.path.expanduser(self._name)
        if os.path.isdir(name):
            return tfds.builder_from_directory(name)
        return tfds.builder(self._name, data_dir=os.path.expanduser(self._data_dir) or None)

    @functools.cached_property
    def _records(self):
        return self._builder.as_data_source(self._split)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels, int32 [n]. Decodes no video, but reads every record from disk, once, at the first use."""
        if not self._label:
            return np.full(len(self), UNLABELED, np.int32)
        import tensorflow_datasets as tfds

        label = tfds.features.FeaturesDict({self._label: self._builder.info.features[self._label]})
        raw = self._builder.as_data_source(self._split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        return np.array([label.deserialize_example_np(record)[self._label] for record in raw], np.int32)

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        record = self._records[index]
        video = record[self._video]
        is_frames = isinstance(video, np.ndarray) and video.dtype == np.uint8 and video.ndim == 4
        if not is_frames and not isinstance(video, bytes):
            content = f"{video.dtype}{list(video.shape)}" if isinstance(video, np.ndarray) else type(video).__name__
            raise ValueError(f"data.tfds.video_feature={self._video!r} holds {content}, not bytes or frames uint8 [n, H, W, 3]")
        label = int(record[self._label]) if self._label else UNLABELED
        return Record(f"{self._name}/{self._split}/{index}", label, _seconds(record, "start"), _seconds(record, "end"), video)

    def key(self, index):
        return f"{self._builder.info.full_name}/{self._split}/{index}"

    @property
    def identity(self) -> str:
        # The version is not enough: a data set may be built again under the same one.
        sizes = [(name, split.num_bytes, list(split.shard_lengths)) for name, split in self._builder.info.splits.items()]
        return f"{self._builder.info.full_name} {sizes} {self._split} {self._video} {self._label}"


def _seconds(record, feature) -> float | None:
    value = record.get(feature)
    is_time = np.ndim(value) == 0 and isinstance(value, (float, np.floating))
    return float(value) if is_time and not np.isnan(value) else None


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Source of generated videos of moving textures, for tests without data.

    A record is a function of its number and the split. Its label is number % classes, and textures of a class move in the
    direction of that class.

    Attributes:
      clips: number of records.
      classes: number of classes.
      frames, height, width: size of a video, in frames and pixels.
      split: splits have different textures.
      class_names: always empty.
    """

    clips: int
    classes: int
    frames: int
    height: int
    width: int
    split: str
    class_names: tuple[str, ...] = ()
    label_sets = None  # without a type it is no field, which `identity` would show

    @property
    def labels(self) -> np.ndarray:
        return (np.arange(self.clips) % self.classes).astype(np.int32)

    def __len__(self):
        return self.clips

    @property
    def identity(self) -> str:
        return str(self)

    def key(self, index):
        return f"synthetic/{self.split}/{index}"

    def __getitem__(self, index):
        label = index % self.classes
        rng = np.random.default_rng([index, *self.split.encode()])
        angle = 2 * np.pi * label / self.classes
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        texture = coarse.repeat(-(-self.height // 8), 0).repeat(-(-self.width // 8), 1)[: self.height, : self.width]
        video = np.empty((self.frames, self.height, self.width, 3), np.uint8)
        for t, frame in enumerate(video):
            shift = (round(2 * t * np.sin(angle)), round(2 * t * np.cos(angle)))
            frame[:] = np.roll(texture, shift, (0, 1))
        return Record(self.key(index), label, None, None, video)
