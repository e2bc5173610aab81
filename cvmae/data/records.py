"""Records, and the protocol of their sources, which a source of your own follows too."""

import dataclasses
from typing import Protocol

import numpy as np

from cvmae.storage.cache import RemoteFile


@dataclasses.dataclass(frozen=True)
class Record:
    """A video, not decoded yet.

    Attributes:
      name: for error messages and bad_files.csv; in a source of your own the key of the record, or a path that ends with it.
      label: class number, or with several labels the row of `Source.label_sets`; or UNLABELED.
      start, end: seconds, the part of the video to use; None: from its beginning, to its end.
      payload: a path, also `gs://...` and `s3://...`, the bytes of an encoded file, a file in a bucket, or frames uint8 [n, H, W, 3].
      manifest_line: where the record is listed, FILE:LINE, for messages; may be "".
      relative_to: what its path is relative to, for the message about a file that is not there; may be "".
    """

    name: str
    label: int
    start: float | None
    end: float | None
    payload: str | bytes | RemoteFile | np.ndarray
    manifest_line: str = dataclasses.field(default="", compare=False)
    relative_to: str = dataclasses.field(default="", compare=False)

    @property
    def listed(self) -> str:
        """`manifest_line` and `relative_to` in brackets, to follow the reason that a file is not there."""
        return _in_brackets(self.manifest_line, self.relative_to)

    @property
    def listed_at(self) -> str:
        """`manifest_line` in brackets, to follow any other reason."""
        return _in_brackets(self.manifest_line)


def _in_brackets(*texts: str) -> str:
    return f" ({', '.join(filter(None, texts))})" if any(texts) else ""


def part_key(path: str, start: float | None, end: float | None) -> str:
    """Returns the key of a part of a video: its path, with `@START-END` if only a part is used."""
    part = ["" if seconds is None else str(seconds) for seconds in (start, end)]
    return path + (f"@{'-'.join(part)}" if any(part) else "")


def why_outside(name: str) -> str:
    """Returns why a name is not the one path of a file below any folder, such as "has .. in it"; "" for a name that is.

    Names of videos become files of features below a workdir, so a name from a data set must neither lead out of it nor be a second
    spelling of another name.
    """
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "is an absolute path"
    words = set(name.split("/"))
    reasons = {
        "has a NUL character in it": "\0" in name,
        "has .. in it": ".." in words,
        "has a . or an empty part in it": bool(words & {"", "."}),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class SplitError(ValueError):
    """A source has no such split, or the slice of a split holds no clip."""


class UnreadableError(Exception):
    """A record cannot be read. args: the name of the record and the reason.

    Raised by a source for one record, it counts as a video that cannot be decoded: another record takes its place in training.
    Any other error of a source ends the run.
    """


class Source(Protocol):
    """Random access to records. Sources are pickled for worker processes, so they hold no open files.

    A source may also have `label_sets`, `notes` (lines for the start of a run), and `parts()`, the (file, start, end) of every record,
    by which splits are compared; a source without them has one label a video and no notes, and two splits share their records if their
    identities and keys are equal. With `stamp(index)`, a text that is another one when the video of a record, or the part of it to use,
    is another, or None where that cannot be told, a repeated run of a task that keeps features finds the videos that were replaced
    without reading all of them.

    Attributes:
      class_names: () if classes have only numbers.
      labels: int32 [n], the label of every record, read without decoding a video.
      label_sets: may be absent, or None, if a video has one label, a class number. With several labels, bool [S, C]: row s has
        True for each class of the set of labels s, none for clips that have none of the classes, and `labels` are rows of this table, the same in all splits.
      identity: a text that differs if records, or the contents of their videos, differ; it does not depend on the folder of the files. A
        run resumes only on a source of the same identity, and of the same labels and label sets, which are compared by themselves.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Returns record `index`, always the same one. Raises: UnreadableError, this record is not to be had."""
        ...

    def key(self, index: int) -> str:
        """Returns a relative path that names a record, without reading it; the same part of the same file has the same key.

        Features are files of this name, so that `..`, `.` and empty parts in it are refused, see `why_outside`.
        """
