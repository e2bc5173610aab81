"""Contents of the label files of a data set, in the same form for every data set."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from cvmae.data.prepare.text import PrepareError


@dataclasses.dataclass(frozen=True)
class Video:
    """A video of a data set.

    Attributes:
      name: published path below --videos; unique, and used in reports.
      label: class name, "" for none.
      stems: possible names of its file without the extension, the most specific first; () if `name` is the file's path.
      hints: names of folders that its file is likely to lie in (class, split), to choose between files of the same stem.
      span: (start, end) of the annotated part in seconds, None if files hold exactly this part. A file whose stem is the
        last one may be longer.
    """

    name: str
    label: str
    stems: tuple[str, ...]
    hints: tuple[str, ...] = ()
    span: tuple[float, float] | None = None


class _Line(NamedTuple):
    """A line that lists a video."""

    where: str
    split: str
    label: str


@dataclasses.dataclass
class Listing:
    """Classes, videos and splits of a data set.

    Attributes:
      classes: class names in the order of their numbers.
      manifests: pairs (name of a video, split) of each manifest, by the manifest's name.
      videos: videos by name.
      repeats: (name, problem, detail) of videos that are listed once more.
      remarks: (path, problem, detail) of files and folders that may not be meant as they are read.
      is_undrawn: True if the videos have no splits yet; the splits in `manifests` are "" then.
    """

    classes: tuple[str, ...]
    manifests: dict[str, list[tuple[str, str]]]
    videos: dict[str, Video] = dataclasses.field(default_factory=dict)
    repeats: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    is_undrawn: bool = False
    remarks: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    _listed: dict[tuple[str, str], _Line] = dataclasses.field(default_factory=dict, compare=False)

    def add(self, manifest: str, split: str, video: Video, where: str) -> None:
        """Lists a video in a manifest, or adds it to `repeats` if it is listed there already. where: file, or file:line."""
        line = _Line(where, split, video.label)
        if first := self._listed.get((manifest, video.name)):
            self.repeats += _problems_of_repeat(video.name, first, line)
            return
        self._listed[manifest, video.name] = line
        self.videos.setdefault(video.name, video)
        self.manifests[manifest].append((video.name, split))

    def add_list(self, manifest: str, split: str, path: str, videos: Iterable[tuple[str, Video]], expected: str) -> None:
        """Lists the videos of a file, pairs ("file:line", video), in a split.

        Raises: PrepareError with the text `expected` if the file is the empty list of the training split; that of another split is a remark.
        """
        is_empty = True
        for where, video in videos:
            self.add(manifest, split, video, where)
            is_empty = False
        if is_empty:
            self.mark_empty(split, path, expected)

    def mark_empty(self, split: str, path: str, expected: str) -> None:
        """Notes that a file lists no video of a split, or of any split if it is "". Raises: PrepareError, of the training split."""
        if split == "train":
            raise PrepareError(f"{path}: no video to train on is listed; expected {expected}")
        self.remarks.append((path, "empty list", f"it lists no video{split and f', so {split} has none of it'}"))


def _problems_of_repeat(name: str, first: _Line, again: _Line) -> list[tuple[str, str, str]]:
    """Returns the problems of a video that is listed once more: in another split, with another label, or just twice."""
    lines = f"{again.where}, first in {first.where}"
    problems = []
    if again.split != first.split:
        problems.append((name, "in two splits", f"{lines}: {first.split} and {again.split}; it stays in {first.split}"))
    if again.label and first.label and again.label != first.label:
        problems.append((name, "two labels", f"{lines}: {first.label!r} and {again.label!r}; the first counts"))
    return problems or [(name, "listed twice", f"{lines}; the first counts")]
