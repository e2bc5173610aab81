"""Stratified subsets of a split, such as 1 % of the training clips.

    train[:1%]   train[10%:]   train[20%:30%]   this fraction of the records of every class
    train[:400]  train[400:]   train[100:200]   this number of clips, as evenly over the classes as possible

Within a class the records have a pseudo-random order, a hash of their number in the split: the same on every machine and in
every run, for any config.seed. Unlabeled records form a class of their own. A record with several labels counts for the one of them
that is the rarest in the split.
"""

import dataclasses
import fractions
import hashlib
import math
import re

import numpy as np

from cvmae.data.labels import label_sets_of
from cvmae.data.records import SplitError

FORMS = "'train', 'train[:1%]', 'train[10%:]', 'train[20%:30%]', or in clips 'train[:400]'"
_SLICE = re.compile(r"([^\[\]]+)\[\s*(\d+(?:\.\d+)?%|\d*)\s*:\s*(\d+(?:\.\d+)?%|\d*)\s*\]")


@dataclasses.dataclass(frozen=True)
class Slice:
    """Part of a split.

    Attributes:
      name: the split.
      low: its lower bound, in percent or clips.
      high: its upper bound, excluded; None: the end.
      percent: True if bounds are in percent, False if in clips.
    """

    name: str
    low: fractions.Fraction
    high: fractions.Fraction | None
    percent: bool


def parse_split(split: str) -> tuple[str, Slice | None]:
    """Returns the name of a split, and its slice, or None if there is no slice.

    Raises:
      SplitError: the slice cannot be parsed or is empty; the message shows the known forms.
    """
    if "[" not in split and "]" not in split:
        return split, None
    match = _SLICE.fullmatch(split)
    if not match:
        raise SplitError(f"split {split!r} cannot be read: write it like {FORMS}")
    name, *bounds = match.groups()
    units = {bound.endswith("%") for bound in bounds if bound}
    if len(units) > 1:
        raise SplitError(f"split {split!r} mixes percent and clips: write it like {FORMS}")
    low, high = (fractions.Fraction(bound.rstrip("%")) if bound else None for bound in bounds)
    percent = units == {True}
    if percent and max(low or 0, high or 0) > 100:
        raise SplitError(f"split {split!r} goes beyond 100%")
    if high is not None and high <= (low or 0):
        raise SplitError(f"split {split!r} is empty: its end is not after its start")
    return name, Slice(name, low or fractions.Fraction(0), high, percent)


def choose(labels: np.ndarray, part: Slice) -> np.ndarray:
    """Returns the numbers of the records of a part, int64 [m], ascending.

    Bounds are rounded up. So adjacent slices, such as [:10%] and [10%:], neither overlap nor leave a record out; and a slice
    that begins at 0 has at least one record of every class, while a later one may have none of a small class.

    Args:
      labels: int [n], labels of the full split, see `strata`.
      part: the slice.

    Raises:
      SplitError: the part is empty or asks for more clips than the split has.
    """
    order, rank, size = _shuffled_classes(labels)
    if part.percent:
        low, high = (_rounded_up(size, bound) for bound in (part.low, 100 if part.high is None else part.high))
        selected = (rank >= low) & (rank < high)
    else:
        high = len(labels) if part.high is None else part.high
        if max(part.low, high) > len(labels):
            raise SplitError(
                f"{part.name!r} has {len(labels)} clips, fewer than the {max(part.low, high)} of its slice: ask for less"
            )
        # Each round takes one record of every class that has any left; a last, incomplete round takes classes at random.
        rounds = np.lexsort((order, rank))
        selected = np.zeros(len(labels), bool)
        selected[rounds[int(part.low) : int(high)]] = True
    records = np.flatnonzero(selected)
    if not len(records):
        raise SplitError(f"the slice of {part.name!r} holds no clip; the split has {len(labels)}: widen the slice")
    return records


def strata(source) -> np.ndarray:
    """Returns the class that each record of a source counts for in a slice, int [n], -1 unlabeled.

    It is the label; of several the rarest in the split, and of equally rare ones that of the lower number; C for none of the C classes. Sets of labels
    themselves are no classes to slice by: most may be those of one clip.
    """
    labels, sets = source.labels, label_sets_of(source)
    if sets is None or not len(sets):
        return labels
    clips = np.bincount(labels[labels >= 0], minlength=len(sets)) @ sets.astype(np.int64)
    rarest = np.where(sets.any(1), np.where(sets, clips, np.iinfo(np.int64).max).argmin(1), sets.shape[1])
    return np.where(labels < 0, -1, rarest[labels])


def _shuffled_classes(labels):
    """Returns, for each record, its sort key among all records, its rank within its class, and the size of its class."""
    digests = b"".join(hashlib.blake2b(b"%d" % i, digest_size=8).digest() for i in range(len(labels)))
    order = np.frombuffer(digests, ">u8")
    by_class = np.lexsort((order, labels))
    _, first, inverse, count = np.unique(labels[by_class], return_index=True, return_inverse=True, return_counts=True)
    rank, size = np.empty_like(by_class), np.empty_like(by_class)
    rank[by_class] = np.arange(len(labels)) - first[inverse]
    size[by_class] = count[inverse]
    return order, rank, size


def _rounded_up(size, percent):
    """Returns ceil(size · percent / 100), int64 [n], exactly: with rounding errors a record could be in two slices."""
    bounds = {int(n): math.ceil(n * fractions.Fraction(percent) / 100) for n in np.unique(size).tolist()}
    return np.array([bounds[n] for n in size.tolist()], np.int64)


class Subset:
    """Source of some records of another source, in its order, numbered from 0; implements `sources.Source`.

    Args:
      source: the other source.
      records: int64 [m], numbers of its records.
    """

    def __init__(self, source, records: np.ndarray):
        self._source, self._records = source, records
        self.class_names, self.labels = source.class_names, source.labels[records]
        self.label_sets = label_sets_of(source)
        self.notes = getattr(source, "notes", ())
        self.may_change = getattr(source, "may_change", False)
        if hasattr(source, "video_file"):
            self.video_file = self._video_file
        if hasattr(source, "stamp"):
            self.stamp = self._stamp

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._source[int(self._records[index])]

    def key(self, index):
        return self._source.key(int(self._records[index]))

    def _video_file(self, index):
        return self._source.video_file(int(self._records[index]))

    def _stamp(self, index):
        return self._source.stamp(int(self._records[index]))

    def parts(self):
        """Returns (file, start, end) of every record; empty where the other source has no files of its own."""
        parts = getattr(self._source, "parts", list)()
        return [parts[number] for number in self._records] if parts else []

    @property
    def identity(self) -> str:
        digest = hashlib.blake2b(self._records.astype("<i8").tobytes(), digest_size=16).hexdigest()
        return f"{digest} of {self._source.identity}"
