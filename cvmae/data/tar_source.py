"""Source of the videos in tar shards, `data.source=webdataset`; `tar_shards` says what a shard holds."""

import concurrent.futures
import functools
import hashlib
import os

import numpy as np

from cvmae.data.class_file import read_classes
from cvmae.data.label_texts import CLASSES, MISSING, UNLABELED, LabelError, normal_form, split_label
from cvmae.data.labels import label_notes, number_labels
from cvmae.data.records import Record, UnreadableError, part_key
from cvmae.data.stamps import stamp_of_path
from cvmae.data.tar_shards import Sample, ShardError, expand, load_index
from cvmae.data.times import part_notes
from cvmae.storage.cache import FileCache, RemoteFile
from cvmae.storage.path import dirname, is_remote, join

_THREADS = 16  # that wait for the indices of shards in a bucket


class TarSource:
    """Source of the videos in tar shards, in the order of the shards and of their members.

    Args:
      shards: a pattern, see `tar_shards.expand`; `{split}` in it is the name of the split.
      split: its name.
      pictures: True takes a picture where a sample has no video.
      cache: keeps copies of the videos in buckets.

    Raises:
      ShardError: a shard is missing or broken, or there is no video.
    """

    label_sets = None

    def __init__(self, shards: str, split: str, pictures: bool = False, cache: FileCache | None = None):
        if not shards:
            raise ShardError(
                "data.source=webdataset needs data.webdataset.shards, a pattern such as 'DIR/{split}-{0000..0099}.tar'; "
                "python -m cvmae.data.prepare --shards=webdataset writes shards"
            )
        expanded = expand(shards.replace("{split}", split))
        self._paths, self._cache = [path if is_remote(path) else os.path.abspath(path) for path in expanded], cache
        self._shards = _relative_names(self._paths)  # once, not for every key
        self._samples: list[tuple[int, Sample]] = []
        notes, without, left_out, texts = [], [], [], []
        with concurrent.futures.ThreadPoolExecutor(_THREADS if any(map(is_remote, self._paths)) else 1) as pool:
            indices = list(pool.map(load_index, self._paths))
        for number, (path, (index, note)) in enumerate(zip(self._paths, indices, strict=True)):
            notes.append(note)
            texts += [f"{os.path.basename(path)}/{index.text}"] if index.text else []
            without += [f"{os.path.basename(path)}/{key}" for key in index.without_video]
            self._samples += [(number, sample) for sample in index.samples if pictures or not sample.is_picture]
            left_out += [f"{os.path.basename(path)}/{s.key}" for s in index.samples if s.is_picture and not pictures]
        if without:
            notes.append(f"{shards}: {len(without):,} samples without a video are left out, such as {without[0]}")
        if left_out:
            notes.append(
                f"{shards}: {len(left_out):,} pictures are left out, such as {left_out[0]}; --config.data.pictures=True takes them"
            )
        self.notes = tuple(dict.fromkeys(filter(None, notes)))
        if not self._samples:
            remedy = "--config.data.pictures=True takes pictures" if left_out else "a video is a member such as KEY.mp4"
            raise ShardError(f"{shards}: no video in {len(self._paths)} shards; {remedy}")
        self.class_names, numbers = self._number()
        self.labels = np.array([numbers.get(sample.label, UNLABELED) for _, sample in self._samples], np.int32)
        if texts and not any(sample.label for _, sample in self._samples):
            self.notes += (
                f"{shards}: no video has a label, and texts such as {texts[0]} are not read as labels: write a class number as KEY.cls, or "
                f"a name as the label in KEY.json with a {CLASSES} beside the shards",
            )

    def _number(self):
        """Returns the class names, and {text of a label: class number}. Raises: ShardError."""
        places: dict[str, str] = {}
        for number, sample in self._samples:
            for text in split_label(self._where(number, sample), sample.label, False):
                places.setdefault(text, self._where(number, sample))
        classes = join(dirname(self._paths[0]), CLASSES)
        try:
            known, unread = read_classes(classes)
            names, numbers = number_labels(places, known, classes)
        except LabelError as error:
            raise ShardError(str(error)) from error
        if names and not known:
            # Sorted names of one split would be numbered otherwise in another one.
            raise ShardError(
                f"{next(iter(numbers.items()))[0]!r} is a class by name; list the names in {classes}, with number,name"
            )
        notes = label_notes(unread, names, numbers, (sample.label for _, sample in self._samples))
        notes += self._compare_labels(names, numbers)
        notes += part_notes((sample.start, sample.end) for _, sample in self._samples)
        self.notes += tuple(f"{dirname(self._paths[0])}: {note}" for note in notes)
        return names, numbers

    def _compare_labels(self, names: tuple[str, ...], numbers: dict[str, int]) -> list[str]:
        """Returns a note about labels in json that are names of no known class, where a cls is there too. Raises: ShardError, two labels differ."""
        known, unknown = {name: number for number, name in enumerate(names)} | numbers, []
        for number, sample in self._samples:
            if not sample.json_label:
                continue
            text = normal_form(sample.json_label)
            if text.lower() in MISSING and text not in known:
                continue
            value = known[text] if text in known else _number_of(text)
            if value is None:
                unknown.append((text, number, sample))
            elif value != numbers.get(sample.label, UNLABELED):
                raise ShardError(
                    f"{self._where(number, sample)} has two labels, {sample.label[:40]!r} in {sample.key}.cls and {text[:40]!r} in "
                    f"{sample.key}.json; leave the right one in the shard"
                )
        if not unknown:
            return []
        text, number, sample = unknown[0]
        return [
            f"{len(unknown):,} samples have a class in KEY.cls and another text as label in KEY.json, such as {text[:40]!r} in "
            f"{os.path.basename(self._paths[number])}/{sample.key}.json, which no {CLASSES} lists: the class is that of KEY.cls"
        ]

    def _where(self, number, sample):
        return f"{self._paths[number]}: member {sample.key}"

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        number, sample = self._samples[index]
        path = self._paths[number]
        name = f"{path}/{sample.key}{sample.extension}"
        try:
            if is_remote(path):
                video = RemoteFile(path, self._cache, sample.offset, sample.size).read()
            else:
                with open(path, "rb") as file:
                    file.seek(sample.offset)
                    video = file.read(sample.size)
        except OSError as error:
            raise UnreadableError(name, error.strerror or str(error)) from error
        if len(video) < sample.size:
            raise UnreadableError(name, "the shard is shorter than when its index was made")
        return Record(name, int(self.labels[index]), sample.start, sample.end, video)

    def key(self, index):
        """Returns the path of the shard below the folder of all and the key of the sample, with `@START-END` if only a part of the video is used."""
        number, sample = self._samples[index]
        return part_key(f"{self._shards[number]}/{sample.key}{sample.extension}", sample.start, sample.end)

    def parts(self):
        """Returns (name of the member, start, end) of every record."""
        return [(f"{self._paths[n]}/{sample.key}", sample.start, sample.end) for n, sample in self._samples]

    def stamp(self, index) -> str | None:
        """Returns a text that is another one when the shard of a record was written again; None if the shard cannot be looked at."""
        number, sample = self._samples[index]
        shard = self._shard_stamps[number]
        return shard and f"{shard} {sample.offset}+{sample.size}"

    @functools.cached_property
    def _shard_stamps(self) -> list[str | None]:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(stamp_of_path, self._paths))

    @functools.cached_property
    def identity(self) -> str:
        keys = "\n".join(f"{self.key(index)} {sample.size}" for index, (_, sample) in enumerate(self._samples))
        return hashlib.blake2b(keys.encode() + self.labels.tobytes(), digest_size=16).hexdigest()


def _number_of(text: str) -> float | None:
    """Returns the number that a text is; None for another text."""
    try:
        return float(text)
    except ValueError:
        return None


def _relative_names(paths: list[str]) -> list[str]:
    """Returns the paths of shards relative to the folder that they share, without their suffixes."""
    plain = [f"/{path.partition('://')[2]}" if is_remote(path) else path for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in plain])
    return [os.path.splitext(os.path.relpath(path, folder))[0] for path in plain]
