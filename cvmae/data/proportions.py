"""The order of the clips of a mixture: sources by exact proportions, the clips of each shuffled by itself.

Position n of the stream is a closed form of n, so that any worker, process or restart begins anywhere.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import grain
import numpy as np
from grain.experimental import WindowShuffleMapDataset

from cvmae.data.mixture import Mixture

EPOCHS = 2**31  # endless for any run; repeat(None) overflows Grain's arithmetic where a process has one example of a batch


def integer_weights(weights: Mapping[str, Fraction]) -> tuple[int, ...]:
    """Returns the smallest integers in the proportions of the weights."""
    common = np.lcm.reduce(np.array([weight.denominator for weight in weights.values()], object))
    scaled = [int(weight * int(common)) for weight in weights.values()]
    return tuple(number // int(np.gcd.reduce(np.array(scaled, object))) for number in scaled)


@dataclasses.dataclass(frozen=True)
class Proportions(grain.transforms.DatasetSelectionMap):
    """The source and the number in it of each position, in the order of `grain.MapDataset.mix` with integer proportions.

    Grain's own proportions are rounded to hundredths of the smallest one; these are exact.

    Attributes:
      weights: positive integers, one for each source.
      length: number of positions.
    """

    weights: tuple[int, ...]
    length: int = EPOCHS

    def counts(self, positions: int) -> list[int]:
        """Returns how many of the first `positions` positions each source has.

        They are exact after every multiple of the sum of the weights, and always less than S - 1 from it with S > 2 sources, less than 1
        with two.
        """
        counts, left, total = [], positions, sum(self.weights)
        for weight in self.weights:
            rest = left * (total - weight) // total
            counts.append(left - rest)
            left, total = rest, total - weight
            if not total:
                break
        return counts

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        before, after = self.counts(index), self.counts(index + 1)
        source = next(number for number, count in enumerate(before) if after[number] > count)
        return source, before[source]


@dataclasses.dataclass(frozen=True)
class Passes:
    """Endless passes over the records `low` to `high` - 1, each shuffled by itself; no record is twice among `span` positions in a row.

    Grain's shuffle draws each pass by itself, so that the end of one and the beginning of the next may share a record: in a batch it
    would be its own negative. Such records of a beginning change places with later ones of their pass. A source of less than 3 x `span`
    records may have too few others to change with.

    Attributes:
      low: first record.
      high: the one after the last.
      seed: of the shuffle.
      span: positions.
    """

    low: int
    high: int
    seed: int
    span: int

    def __len__(self):
        return (self.high - self.low) * EPOCHS

    def __getitem__(self, position):
        number, offset = divmod(int(position), self.high - self.low)
        return _shuffled(self, number, _exchanges(self, number).get(offset, offset))


@functools.lru_cache(maxsize=64)
def _grain_shuffle(low: int, high: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(low, high).seed(seed).shuffle().repeat(EPOCHS)


def _shuffled(passes: Passes, number: int, offset: int) -> int:
    """Returns the record that Grain's shuffle has at an offset of pass `number`."""
    length = passes.high - passes.low
    return int(_grain_shuffle(passes.low, passes.high, passes.seed)[number * length + offset])


@functools.lru_cache(maxsize=64)
def _exchanges(passes: Passes, number: int) -> dict[int, int]:
    """Returns the offsets of pass `number` whose records change places with each other.

    Only offsets outside the last `span` change, so that the end of every pass is that of Grain's shuffle, and no pass depends on more than
    the one before.
    """
    length, span = passes.high - passes.low, passes.span
    if not number or length <= span:
        return {}
    ending = {_shuffled(passes, number - 1, offset) for offset in range(length - span, length)}
    repeated = [offset for offset in range(span) if _shuffled(passes, number, offset) in ending]
    others = (offset for offset in range(span, length - span) if _shuffled(passes, number, offset) not in ending)
    pairs = list(zip(repeated, others, strict=False))
    return dict(pairs) | {later: first for first, later in pairs}


def most_of_a_batch(weights: Sequence[int], batch_size: int) -> list[int]:
    """Returns the most positions that a batch may have of each source: its share, and what `Proportions.counts` may differ by."""
    slack = 2 * max(1, len(weights) - 2)
    return [min(batch_size, -(-batch_size * weight // sum(weights)) + slack) for weight in weights]


def clip_indices_of(mixture: Mixture, seed: int, batch_size: int) -> grain.MapDataset:
    """Returns the endless stream of record numbers of a mixture.

    Each batch of `batch_size` positions holds the share of every source, in a random order: without it, micro-batches that take every
    second clip would hold one source each.

    Args:
      mixture: the sources and their weights.
      seed: config.seed.
      batch_size: clips of the global batch.
    """
    streams, weights = [], integer_weights(mixture.weights)
    for number, (name, span) in enumerate(zip(mixture.names, most_of_a_batch(weights, batch_size), strict=True)):
        own_seed = int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=4).digest())
        streams.append(grain.MapDataset.source(Passes(*mixture.range_of(number), own_seed, span)))
    length = min(len(stream) * sum(weights) // weight for stream, weight in zip(streams, weights, strict=True))
    mixed = grain.MapDataset.select_from_datasets(streams, Proportions(weights, min(length, 2**62)))
    return WindowShuffleMapDataset(mixed, window_size=batch_size, seed=seed)


class ClipCounts:
    """Clips drawn from each source of a mixture since the beginning of a run, over restarts; nothing for any other source.

    Args:
      source: of the run.
      batch_size: clips of the global batch.
      position: of the checkpoint that the run resumes from, which has the counts until then; with "step".
    """

    def __init__(self, source, batch_size: int, position: dict):
        self._names = source.names if isinstance(source, Mixture) else ()
        self._batch_size = batch_size
        if self._names:
            self._proportions = Proportions(integer_weights(source.weights))
            saved, step = position.get("mixture_clips", {}), position["step"]
            # The weights may have changed at a restart: then these are not the counts of the new ones.
            self._offset = {name: saved.get(name, 0) - count for name, count in self._counts(step).items()} if step else {}

    def _counts(self, step: int) -> dict[str, int]:
        return dict(zip(self._names, self._proportions.counts(step * self._batch_size), strict=True))

    def at(self, step: int) -> dict[str, int]:
        """Returns the number of clips of each source that the steps until `step` have had."""
        return {name: count + self._offset.get(name, 0) for name, count in self._counts(step).items()} if self._names else {}

    def position(self, step: int) -> dict:
        """Returns the entry of a checkpoint's position."""
        return {"mixture_clips": self.at(step)} if self._names else {}

    def complete(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Returns the metrics of a step with `clips/NAME`, and without `loss/NAME` of the sources that have no clip in it."""
        now, before = self.at(step), self.at(step - 1) if self._names else {}
        absent = {f"loss/{name}" for name in now if now[name] == before[name]}
        kept = {name: value for name, value in metrics.items() if name not in absent}
        return kept | {f"clips/{name}": float(count) for name, count in now.items()}
