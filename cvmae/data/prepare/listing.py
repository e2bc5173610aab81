"""What the label files of a data set say, in one form for all of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of a data set.

    name: its path below --videos as published; tells it from all others, and stands in reports.
    label: class name, "" for none.
    stems: names without extension under which its file may lie, the most specific first; () if `name` is where it lies.
    hints: folders that its file is likely to lie in (class, split); they decide between files of one stem.
    span: seconds (start, end), the annotated part, where the file may be longer than that: its stem is the last one then.
    """

    name: str
    label: str
    stems: tuple[str, ...]
    hints: tuple[str, ...] = ()
    span: tuple[float, float] | None = None


@dataclasses.dataclass
class Listing:
    """The classes in the order of their numbers, the videos by name, and for each manifest its (name, split) pairs."""

    classes: tuple[str, ...]
    manifests: dict[str, list[tuple[str, str]]]
    videos: dict[str, Video] = dataclasses.field(default_factory=dict)
    repeats: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (name, where it is listed again)
    is_undrawn: bool = False  # the videos have no splits yet: "" stands in the pairs
    _listed: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    def add(self, manifest: str, split: str, video: Video, where: str) -> None:
        """Lists a video; one that the manifest has already stays as it was, and is noted. where: file, or file:line."""
        if (manifest, video.name) in self._listed:
            self.repeats.append((video.name, where))
            return
        self._listed.add((manifest, video.name))
        self.videos.setdefault(video.name, video)
        self.manifests[manifest].append((video.name, split))
