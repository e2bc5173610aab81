"""Source of a Hugging Face `datasets` set, `data.source=hf`: a hub id, a folder, or Parquet files."""

import hashlib
import itertools
import os

import numpy as np

from cvmae.data.class_file import read_classes
from cvmae.data.label_texts import CLASSES, MISSING, UNLABELED, split_label
from cvmae.data.labels import label_notes, number_labels
from cvmae.data.records import Record, SplitError, UnreadableError
from cvmae.data.times import parse_part, part_notes
from cvmae.storage.cache import FileCache, RemoteFile, open_binary
from cvmae.storage.path import dirname, expand_user, glob, is_remote, join

HIDDEN = "-1"  # the label of test sets whose labels are not published, by convention of the hub


class HfSource:
    """Source of a split of a Hugging Face data set, whose videos are not decoded by `datasets`.

    `datasets` converts Parquet files into memory-mapped Arrow files in its cache, once. Columns `start` and `end`, numbers or texts, are
    the part of the video to use, in seconds, by the rules of a manifest.

    Args:
      path: a hub id, a folder (of Parquet files, or saved by `save_to_disk`), or a pattern of Parquet files, in which `{split}`
        is the name of the split.
      config: name of a configuration of the set; "" for its only one.
      video: column of videos: of the feature `Video` or `Image`, encoded bytes, or paths, relative to the folder `path`. A picture
        is a video of one frame.
      label: column of class numbers or names; "": unlabeled.
      split: its name.

    Raises:
      SplitError: the set has no such split.
      ValueError: a field of config.data.hf is wrong, or the set is not to be had; the message names the field.
    """

    label_sets = None

    def __init__(self, path: str, config: str, video: str, label: str, split: str, cache: FileCache | None = None):
        if not path:
            raise ValueError("data.source=hf needs data.hf.path, a hub id, a folder of a data set, or a pattern of Parquet files")
        self._path, self._config, self._video, self._label, self._split = path, config, video, label, split
        self._expanded, self._cache = expand_user(path), cache
        rows = _open(self._expanded, config, split)
        for field, column in (("video", video), ("label", label)):
            if column not in rows.features and (column or field == "video"):
                raise ValueError(f"data.hf.{field}={column!r} is no column of {path}; it has {', '.join(rows.features)}")
        self._rows = _undecoded(rows.select_columns([video]), video)
        self._place = self._name_of_rows()
        self._parts = self._read_parts(rows)
        self.class_names, self.labels, notes = self._number(rows)
        self.notes = tuple(f"{path}: {note}" for note in (*notes, *part_notes(self._parts or ())))
        self.identity = self._digest()

    def _read_parts(self, rows) -> list[tuple[float | None, float | None]] | None:
        """Returns the part of the video of every row, in seconds; None without such columns. Raises: TimeError."""
        columns = [rows.select_columns([name])[:][name] if name in rows.features else None for name in ("start", "end")]
        if columns == [None, None]:
            return None
        starts, ends = (column or itertools.repeat(None, len(rows)) for column in columns)
        return [parse_part(f"{self._path}: row {row}", *part) for row, part in enumerate(zip(starts, ends, strict=True))]

    def _number(self, rows) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
        """Returns the class names, the labels of all rows, int32 [n], and notes. Raises: LabelError."""
        from datasets import ClassLabel

        if not self._label:
            return (), np.full(len(rows), UNLABELED, np.int32), []
        column, feature = rows.select_columns([self._label])[:][self._label], rows.features[self._label]
        if isinstance(feature, ClassLabel):
            return tuple(feature.names), np.array([UNLABELED if n is None or n < 0 else n for n in column], np.int32), []
        where = f"{self._path}: column {self._label}"
        texts = [split_label(where, value, False)[0] for value in column]
        # All splits are judged together, so that a class has one number in each.
        of_all = {split_label(where, value, False)[0] for value in self._labels_of_all_splits()}
        known = {text for text in of_all | set(texts) if text.lower() not in MISSING and text != HIDDEN}
        listed, unread = read_classes(classes := join(self._folder, CLASSES))
        names, numbers = number_labels(dict.fromkeys(sorted(known), where), listed, classes)
        return (
            names,
            np.array([numbers.get(text, UNLABELED) for text in texts], np.int32),
            label_notes(unread, names, numbers, texts),
        )

    def _name_of_rows(self) -> str:
        """Returns what precedes the number of a row in messages: the Parquet file, or the pattern of several, or the set and its split."""
        if not self._expanded.endswith(".parquet"):
            return f"{self._path}: split {self._split}, row "
        pattern = self._expanded.replace("{split}", self._split)
        files = glob(pattern)
        return f"{files[0]}: row " if len(files) == 1 else f"{pattern}: row "

    def _labels_of_all_splits(self) -> set:
        """Returns the values of the label column in every split."""
        import pyarrow.parquet

        if self._expanded.endswith(".parquet"):
            tables = []
            for file in glob(self._expanded.replace("{split}", "*")):
                with open_binary(file) as opened:
                    tables.append(pyarrow.parquet.read_table(opened, columns=[self._label]))
            return {value for table in tables for value in table.column(0).unique().to_pylist()}
        splits = _open(self._expanded, self._config, None)
        return {value for rows in splits.values() if self._label in rows.features for value in rows.unique(self._label)}

    @property
    def _folder(self) -> str:
        """The folder that paths of videos are relative to."""
        return dirname(self._expanded) if self._expanded.endswith(".parquet") else self._expanded

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        row = self._rows[int(index)]
        video, name = row[self._video], f"{self._place}{index}"
        path = video.get("path") if isinstance(video, dict) else video if isinstance(video, str) else None
        payload = video.get("bytes") if isinstance(video, dict) else video if isinstance(video, bytes) else None
        if payload is None:
            if not path:
                raise UnreadableError(name, f"the column {self._video} is empty")
            payload = join(self._folder, path)
            payload = RemoteFile(payload, self._cache) if is_remote(payload) else payload
        start, end = (None, None) if self._parts is None else self._parts[int(index)]
        return Record(f"{name} ({path})" if path else name, int(self.labels[index]), start, end, payload)

    def key(self, index):
        """Returns the last part of the path, the split and the number of the row."""
        path = os.path.normpath(self._path)
        path = os.path.abspath(path) if os.path.basename(path) in (".", "..") else path  # a key has no such parts
        name = os.path.basename(path).replace("{split}", "").replace("*", "") or "data"
        return f"{name}/{self._split}/{index}"

    def _digest(self) -> str:
        """Returns a hash of labels, class names and the sizes of videos, which lie in the data or are paths."""
        import pyarrow
        import pyarrow.compute as compute

        column = self._rows.data.column(self._video)
        if pyarrow.types.is_struct(column.type):
            column = compute.struct_field(column, "bytes")
        sizes = compute.binary_length(column).fill_null(-1).to_numpy()
        texts = "\n".join([self._config, self._split, self._video, self._label, str(len(self)), *self.class_names])
        return hashlib.blake2b(
            texts.encode() + self.labels.tobytes() + sizes.astype(np.int64).tobytes(), digest_size=16
        ).hexdigest()


def _open(path: str, config: str, split: str | None):
    """Opens a split of a set, or all of them by name. Raises: SplitError, ValueError."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("data.source=hf needs the package datasets: pip install 'crossvideomae[hf]'") from error
    is_saved = {name: os.path.exists(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json")}
    try:
        if any(is_saved.values()):
            saved = datasets.load_from_disk(path)
            splits = saved if is_saved["dataset_dict.json"] else {str(saved.split or split): saved}
        elif split is not None and path.endswith(".parquet"):
            return datasets.load_dataset("parquet", data_files={split: path.replace("{split}", split)}, split=split)
        else:
            return datasets.load_dataset(path, config or None, split=split)
    except (ValueError, OSError, ConnectionError) as error:
        text = " ".join(str(error).split())
        if text.startswith("Unknown split"):
            raise SplitError(f"{path}: {text}") from error
        raise ValueError(
            f"data.hf.path={path!r}: {text}; give a hub id, a folder of a data set, or a pattern of Parquet files"
        ) from error
    if split is None:
        return splits
    if split not in splits:
        raise SplitError(f"{path}: no split {split!r}; the splits there are: {', '.join(splits)}")
    return splits[split]


def _undecoded(rows, video: str):
    """Returns rows whose videos are bytes or paths. Raises: ValueError, the column holds no videos."""
    import datasets

    feature = rows.features[video]
    for kind in (datasets.Video, datasets.Image):
        if isinstance(feature, kind):
            return rows.cast_column(video, kind(decode=False))
    is_file = isinstance(feature, dict) and {"bytes", "path"} >= set(feature)
    if not is_file and getattr(feature, "dtype", "") not in ("binary", "large_binary", "string", "large_string"):
        raise ValueError(
            f"data.hf.video={video!r} holds {feature}; expected the feature Video or Image, encoded bytes, or paths of files"
        )
    return rows
