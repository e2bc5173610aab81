"""Source of prepared tensorflow-datasets data sets, `data.source=tfds`."""

import functools
import os

import numpy as np

from cvmae.data.manifest import UNLABELED
from cvmae.data.records import Record
from cvmae.storage.client import LIBRARIES, SCHEMES, scheme_of


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
        for field, path in (("name", name), ("data_dir", data_dir)):
            if (scheme := scheme_of(path)) and scheme not in LIBRARIES:
                raise ValueError(
                    f"data.tfds.{field}={path!r} begins with {scheme}://; give a path of this machine, or one with {SCHEMES}"
                )
        if scheme_of(name):
            raise ValueError(
                f"data.tfds.name={name!r}: give the set's name, and in data.tfds.data_dir the folder above the set's"
            )
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
        try:
            return tfds.builder(self._name, data_dir=os.path.expanduser(self._data_dir) or None)
        except tfds.core.DatasetNotFoundError as error:  # whose message lists a thousand sets
            searched = f"data.tfds.data_dir={self._data_dir!r}" if self._data_dir else "the default folder of tfds"
            raise ValueError(
                f"data.tfds.name={self._name!r} is no folder, and no data set in {searched} or known to tensorflow-datasets; give the folder "
                "of a prepared version, with dataset_info.json in it"
            ) from error

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
