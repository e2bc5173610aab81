"""Parts of a split, such as 1 % of the training clips, that keep the proportions of the classes.

    train[:1%]   train[10%:]   train[20%:30%]   of every class that share of its records
    train[:400]  train[400:]   train[100:200]   so many clips, as evenly over the classes as possible

Within every class the records stand in one pseudo-random order, a hash of their number in the split: the same on every
machine, in every run, whatever config.seed is. Records without a label are a class of their own here.
"""

import dataclasses
import fractions
import hashlib
import math
import re

import numpy as np

FORMS = "'train', 'train[:1%]', 'train[10%:]', 'train[20%:30%]', or in clips 'train[:400]'"
_SLICE = re.compile(r"([^\[\]]+)\[\s*(\d+(?:\.\d+)?%|\d*)\s*:\s*(\d+(?:\.\d+)?%|\d*)\s*\]")


@dataclasses.dataclass(frozen=True)
class Slice:
    """The part of the split `name` from `low` to `high` (None: to its end), in percent or in clips."""

    name: str
    low: fractions.Fraction
    high: fractions.Fraction | None
    percent: bool


def parse_split(split: str) -> tuple[str, Slice | None]:
    """The name of a split, and its slice, or None where it is taken whole.

    Raises: ValueError, naming the forms that are understood.
    """
    if "[" not in split and "]" not in split:
        return split, None
    match = _SLICE.fullmatch(split)
    if not match:
        raise ValueError(f"split {split!r} cannot be read: write it like {FORMS}")
    name, *bounds = match.groups()
    units = {bound.endswith("%") for bound in bounds if bound}
    if len(units) > 1:
        raise ValueError(f"split {split!r} mixes percent and clips: write it like {FORMS}")
    low, high = (fractions.Fraction(bound.rstrip("%")) if bound else None for bound in bounds)
    percent = units == {True}
    if percent and max(low or 0, high or 0) > 100:
        raise ValueError(f"split {split!r} goes beyond 100%")
    if high is not None and high <= (low or 0):
        raise ValueError(f"split {split!r} is empty: its end is not behind its start")
    return name, Slice(name, low or fractions.Fraction(0), high, percent)


def choose(labels: np.ndarray, part: Slice) -> np.ndarray:
    """The records of a part, int64 [m], ascending. labels: int [n], of the whole split.

    Bounds are rounded up. So slices that share a bound share no record and leave none out between them; and a slice that
    begins at 0 has at least one record of every class, while a later one may have none of a class with few records.

    Raises: ValueError where the part is empty or asks for more clips than there are.
    """
    order, place, size = _shuffled_classes(labels)
    if part.percent:
        low, high = (_rounded_up(size, bound) for bound in (part.low, 100 if part.high is None else part.high))
        inside = (place >= low) & (place < high)
    else:
        high = len(labels) if part.high is None else part.high
        if max(part.low, high) > len(labels):
            raise ValueError(
                f"{part.name!r} has {len(labels)} clips, fewer than the {max(part.low, high)} of its slice: ask for less"
            )
        # Round after round one record of every class that has some left; a last, incomplete round takes classes at random.
        rounds = np.lexsort((order, place))
        inside = np.zeros(len(labels), bool)
        inside[rounds[int(part.low) : int(high)]] = True
    chosen = np.flatnonzero(inside)
    if not len(chosen):
        raise ValueError(f"the slice of {part.name!r} holds no clip; the split has {len(labels)}: widen the slice")
    return chosen


def _shuffled_classes(labels):
    """Of each record its place in the order of all records, its place in the order of its class, and that class's size."""
    digests = b"".join(hashlib.blake2b(b"%d" % i, digest_size=8).digest() for i in range(len(labels)))
    order = np.frombuffer(digests, ">u8")
    by_class = np.lexsort((order, labels))
    _, first, inverse, count = np.unique(labels[by_class], return_index=True, return_inverse=True, return_counts=True)
    place, size = np.empty_like(by_class), np.empty_like(by_class)
    place[by_class] = np.arange(len(labels)) - first[inverse]
    size[by_class] = count[inverse]
    return order, place, size


def _rounded_up(size, percent):
    """ceil(size · percent / 100), int64 [n]; exact, because rounded shares could make a record appear twice."""
    known = {int(n): math.ceil(n * fractions.Fraction(percent) / 100) for n in np.unique(size).tolist()}
    return np.array([known[n] for n in size.tolist()], np.int64)


class Subset:
    """Some records of a source, in its order; a record's number is its place in the subset. See `sources.Source`."""

    def __init__(self, source, records: np.ndarray):
        self._source, self._records = source, records
        self.class_names, self.labels = source.class_names, source.labels[records]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._source[int(self._records[index])]

    def key(self, index):
        return self._source.key(int(self._records[index]))

    @property
    def identity(self) -> str:
        chosen = hashlib.blake2b(self._records.astype("<i8").tobytes(), digest_size=16).hexdigest()
        return f"{chosen} of {self._source.identity}"
