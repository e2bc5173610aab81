"""Checks of the rows of splits together: files in two splits or with two labels, and classes without training clips."""

import bisect
import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cvmae.data.labels import label_sets_of
from cvmae.data.lines import counted, one_line
from cvmae.data.manifest import ManifestError
from cvmae.data.records import Source
from cvmae.storage.path import hard_links

_SHOWN = 3
# Above this fraction of the clips that are compared, a number on them means something else than it says.
_MOST = 0.5


class Part(NamedTuple):
    """The part of a file from `start` to `end`, in seconds."""

    file: str
    start: float = 0.0
    end: float = math.inf

    @classmethod
    def of(cls, file: str, start: float | None, end: float | None) -> "Part":
        """Makes a part of times that may be None: from the beginning, to the end."""
        return cls(file, start or 0.0, math.inf if end is None else end)

    def named(self, names: Mapping[str, str]) -> "Part":
        """Returns the part with the name of its file that `names` has for it, if any."""
        return self._replace(file=names.get(self.file, self.file))


def shared(train: Iterable[Part], test: Sequence[Part]) -> list[int]:
    """Returns the numbers of the parts of `test` that overlap one of `train` of the same file, ascending."""
    by_file = collections.defaultdict(list)
    for part in train:
        by_file[part.file].append((part.start, part.end))
    for file, spans in by_file.items():
        by_file[file] = _merged(spans)
    numbers = []
    for number, (file, start, end) in enumerate(test):
        spans = by_file.get(file, [])
        after = bisect.bisect_left(spans, (end, -math.inf))
        if after and spans[after - 1][1] > start:
            numbers.append(number)
    return numbers


def _merged(spans):
    """Returns sorted spans (start, end) that do not overlap and cover the same times."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def repeated(parts: Sequence[Part], labels: Sequence) -> tuple[dict[int, int], list[int]]:
    """Returns {number: number of the first} of the parts that are there before already, and those of them with another label there."""
    first: dict[Part, int] = {}
    again: dict[int, int] = {}
    contrary = []
    for number, part in enumerate(parts):
        other = first.setdefault(part, number)
        if other != number:
            again[number] = other
            if labels[other] != labels[number]:
                contrary.append(number)
    return again, contrary


class Finding(NamedTuple):
    """Something wrong with rows of a split.

    Attributes:
      text: which split, how many rows, and examples.
      consequence: for a note, after `text`.
      affected: the number of clips on which a number would mean nothing, of all `clips` of the split.
      remedy: for the error where these are most of the clips.
    """

    text: str
    consequence: str = ""
    affected: int = 0
    clips: int = 0
    remedy: str = ""

    @property
    def note(self) -> str:
        """The line for the start of a run that is not refused."""
        return self.text + self.consequence


def check_rows(sources: Mapping[str, Source], splits: Mapping[str, str], labeled: bool, refuse: bool = True) -> list[str]:
    """Compares the rows of the splits of a run.

    Args:
      sources: by the field of config.data, `split` with the training clips, and those that numbers are computed on.
      splits: the values of these fields. A field with the value of `split` is meant to be the training clips.
      labeled: True if labels are read.
      refuse: False for labels that are read beside what is learned, for which nothing is refused.

    Returns:
      Lines for the start of the run.

    Raises:
      ManifestError: with labels and `refuse`, more than half of the clips of a split have two labels, are training clips as well, or are of
        classes without training clips, so that a number on them would mean nothing.
    """
    by_split: dict[str, str] = {}
    for field, split in splits.items():
        by_split.setdefault(split, field)
    named = {f"data.{field}={split!r}": sources[field] for split, field in by_split.items()}
    findings = compare_rows(named, f"data.split={splits['split']!r}", labeled)
    for finding in findings if labeled and refuse else ():
        if finding.affected > _MOST * finding.clips:
            raise ManifestError(f"{finding.text}; no number on them would mean anything: {finding.remedy}")
    return [finding.note for finding in findings]


def compare_rows(sources: Mapping[str, Source], train: str, labeled: bool) -> list[Finding]:
    """Looks at the rows of every split, and at those of training beside those of each other one.

    Args:
      sources: of the splits by the name that messages have for them.
      train: the name of the training clips; without it no two splits are compared.
      labeled: True if labels are read.
    """
    findings = []
    parts = _by_file({name: parts_of(source) for name, source in sources.items()})
    for name, source in sources.items():
        findings += _repeats(name, source, parts[name], labeled) + (_unlabeled(name, source) if labeled else [])
    for name, source in sources.items():
        if train in sources and name != train:
            findings += _shared_clips(name, train, parts[train], source, parts[name])
            if labeled:
                findings += _without_training(name, train, sources[train], source)
    return findings


def count_trained_on(train: Source, test: Source) -> int:
    """Returns how many clips of `test` are, in whole or in part, clips of `train` too."""
    if test is train:
        return len(test)
    parts = _by_file({"train": parts_of(train), "test": parts_of(test)})
    return len(shared(parts["train"], parts["test"]))


def _by_file(splits: dict[str, list[Part]]) -> dict[str, list[Part]]:
    """Returns the parts with one name for each file, also for one that hard links give several."""
    links = hard_links(dict.fromkeys(part.file for rows in splits.values() for part in rows))
    if not links:
        return splits
    return {name: [part.named(links) for part in rows] for name, rows in splits.items()}


def _repeats(name, source, parts, labeled):
    again, contrary = repeated(parts, source.labels.tolist() if labeled else [0] * len(parts))
    findings = []
    if contrary:
        text = f"{name}: {_count(len(contrary), 'video')} listed again with another label, {_examples(source, contrary)}"
        remedy = "give each video one label"
        findings.append(Finding(text, f"; {remedy}", 2 * len(contrary), len(source), remedy))
    same = sorted(set(again) - set(contrary))
    if same:
        findings.append(Finding(f"{name}: {_count(len(same), 'video')} listed more than once, {_examples(source, same)}"))
    return findings


def _unlabeled(name, source):
    """Returns a line about clips without a label among others, which are not learned, do not vote and are not tested."""
    numbers = np.flatnonzero(source.labels < 0).tolist()
    if not 0 < len(numbers) < len(source):
        return []
    lack = "has" if len(numbers) == 1 else "have"
    text = f"{name}: {len(numbers):,} of {counted(len(source), 'video')} {lack} no label, {_examples(source, numbers)}"
    return [Finding(text, f"; numbers about classes are of the other {len(source) - len(numbers):,}")]


def _shared_clips(name, train_name, train_parts, source, parts):
    numbers = shared(train_parts, parts)
    if not numbers:
        return []
    text = f"{name}: {len(numbers):,} of {_count(len(source), 'video')} also in {train_name}, {_examples(source, numbers)}"
    remedy = "remove them from one of the two, or name one split in all data.*split fields"
    return [Finding(text, "; numbers on them say nothing about new videos", len(numbers), len(source), remedy)]


def _without_training(name, train_name, train, source):
    tested = _clips_of_sets(source)
    trained = {label for labels in _clips_of_sets(train) for label in labels}
    count = max([len(train.class_names), *(label + 1 for labels in (trained, *tested) for label in labels)])
    lacking = sorted(set(range(count)) - trained)
    if not trained or not lacking:
        return []
    names = [train.class_names[label] if label < len(train.class_names) else str(label) for label in lacking]
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    clips = sum(number for labels, number in tested.items() if not trained.issuperset(labels))
    text = f"{train_name} has no video of {len(lacking)} of {count} classes ({shown}), {name} has {clips:,} of them"
    # A clip with several labels says something as long as one of them is trained.
    unknown = sum(number for labels, number in tested.items() if labels and trained.isdisjoint(labels))
    return [Finding(text, "", unknown, tested.total(), "check that both splits number their classes alike")]


def _clips_of_sets(source) -> collections.Counter[tuple[int, ...]]:
    """Returns the number of labeled clips of each set of labels, which is one class number where a video has one label."""
    clips = collections.Counter(source.labels.tolist())
    del clips[-1]
    sets = label_sets_of(source)
    return collections.Counter(
        {(label,) if sets is None else tuple(np.flatnonzero(sets[label]).tolist()): number for label, number in clips.items()}
    )


def parts_of(source: Source) -> list[Part]:
    """Returns the part of a file that each record is; empty for a source whose records are in no files of their own."""
    return [Part.of(*part) for part in getattr(source, "parts", list)()]


def _count(number, noun):
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


def _examples(source, numbers):
    return f"such as {', '.join(one_line(source.key(number)) for number in numbers[:_SHOWN])}"
