"""Sources from outside the package, `cvmae.run(config, workdir, source=...)`: the check that they and their records follow the protocol."""

import contextlib
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from cvmae.data.custom_checks import (
    SourceError,
    Span,
    check_members,
    check_name,
    check_parts,
    check_picklable,
    check_record,
    check_same_classes,
    check_text,
)
from cvmae.data.labels import digest_labels, label_sets_of
from cvmae.data.records import Record, Source, UnreadableError


class CheckedSource:
    """A source whose records and keys are checked when they are asked for; all else is that of the other source.

    Attributes:
      may_change: True: videos may be others at the same identity, which is what its author made it; see `Stamps.are_needed`.
    """

    may_change = True

    def __init__(self, source: Source, name: str):
        """Wraps `source`; `name` is its name for messages."""
        self._source, self._name = source, name
        self._labels = source.labels  # read once: they may be a property that computes them
        self._label_digest = digest_labels(self)

    def __getattr__(self, member: str):
        if member.startswith("__") or member in ("_source", "_name", "_labels", "_label_digest"):  # before pickle has set them
            raise AttributeError(member)
        return getattr(self._source, member)

    @property
    def labels(self) -> np.ndarray:
        """Those of the other source when it was wrapped."""
        return self._labels

    @property
    def identity(self) -> str:
        """That of the other source, and a hash of its labels and label sets, which change what is learned and compared."""
        return f"{self._source.identity}, labels {self._label_digest}"

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        """Returns the key of a record. Raises: SourceError, it is no text, or an empty one."""
        key = self._source.key(index)
        check_text(key, f"{self._name}.key({index})")
        return key

    def parts(self) -> list[Span]:
        """Returns (file, start, end) of every record, of videos in no files a name for each that a source of the same records has too.

        Sources have the same records if they have the same identity, but for their labels, and the same keys. A video that is there twice
        has one name.
        """
        own = getattr(self._source, "parts", list)
        if parts := check_parts(own() if callable(own) else own, len(self), self._name):
            return parts
        keys = [self.key(index) for index in range(len(self))]
        records = hashlib.blake2b(json.dumps([self._source.identity, keys]).encode(), digest_size=16).hexdigest()
        return [(f"{records}/{key}", None, None) for key in keys]

    def __getitem__(self, index: int) -> Record:
        """Returns a record. Raises: SourceError, it does not follow the protocol; UnreadableError and others, the other source's."""
        name = f"{self._name}[{index}]"
        try:
            record = self._source[index]
        except UnreadableError as error:
            if len(error.args) == 2 and all(isinstance(arg, str) and arg.strip() for arg in error.args):
                raise
            reason = " ".join(filter(None, map(str, error.args))) or "its source does not say why"
            raise UnreadableError(self.key(index), reason) from error
        except (StopIteration, SystemExit) as error:  # these would end a generator or a thread, and not the run
            raise SourceError(f"{name} raises {type(error).__name__}: give a record, or raise cvmae.UnreadableError") from error
        except Exception as error:
            error.add_note(f"raised by {name}")
            raise
        record = check_record(record, int(self._labels[index]), name)
        check_name(record, self.key(index), name, f"{self._name}.key({index})")
        return record


def by_split(source: Source | Mapping[str, Source], split: str) -> dict[str, CheckedSource]:
    """Returns checked sources, whose records are checked as well, by the name of their split.

    Args:
      source: one source, which is that of the split `split`, or a source for every split that the task reads.
      split: the value of config.data.split.

    Raises:
      SourceError: a source does not follow the protocol.
    """
    sources = dict(source) if isinstance(source, Mapping) else {split.partition("[")[0]: source}
    named = {split: f"source[{split!r}]" if isinstance(source, Mapping) else "source" for split in sources}
    checked = {name: check_source(one, named[name]) for name, one in sources.items()}
    check_same_classes(checked, named)
    return checked


def find_split(custom: Mapping[str, Source] | None, split: str, multi_label: bool = False) -> Source:
    """Returns the source of a split.

    Args:
      custom: sources by split.
      split: its name.
      multi_label: True where clips have several labels.

    Raises:
      SourceError: the split has no source, or its labels are of the other form.
    """
    if custom is None:
        raise SourceError("data.source=custom is set by cvmae.run(config, workdir, source=...), and no source is here: call that")
    if split not in custom:
        raise SourceError(
            f"split {split!r} has no source; there is one for {', '.join(map(repr, custom)) or 'no split'}: give "
            f"cvmae.run(..., source={{{split!r}: ..., ...}}), a source for every split that the task reads"
        )
    has_sets = label_sets_of(custom[split]) is not None
    if has_sets != multi_label:
        remedy = "label_sets, bool [S, C]" if multi_label else "no label_sets, or set config.data.multi_label=True"
        raise SourceError(f"the source of split {split!r} with config.data.multi_label={multi_label}: give it {remedy}")
    return custom[split]


def check_source(source, name: str) -> CheckedSource:
    """Returns a source that checks its records as they are read, of an object that follows the protocol `records.Source`, as far as that shows at once.

    Args:
      source: the object; its record 0 is read.
      name: of the object, for messages.

    Raises:
      SourceError: something is missing or of another type.
    """
    check_members(source, name)
    checked = CheckedSource(source, name)
    with contextlib.suppress(UnreadableError):  # such a record is replaced and counted like any other
        checked[0]
    check_picklable(source, name)
    return checked
