"""Origins of features: recorded with them, and compared with the rows that a source has now.

An origin is an object for JSON:

    path        name of the video
    label       class number, -1 unlabeled; where videos have several labels a list of them, null for an unlabeled video
    start, end  seconds, the part of the video that was used; null: from its beginning, to its end
    video       a stamp, see `data.stamps`; absent where there was none
    encoder     a hash of the encoder and of the settings, see `feature_identity.digest`

Files of earlier versions have the first two alone, and shards the text of the label. What is absent is not compared.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from cvmae.data.label_texts import NONE_OF_THEM
from cvmae.data.labels import label_sets_of
from cvmae.data.records import Source
from cvmae.data.stamps import Stamps, VideoStamp
from cvmae.evaluation.feature_cache import process_slice
from cvmae.evaluation.feature_files import Stored
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath

_THREADS, _CHUNK = 16, 4096  # that wait for a bucket or for NFS, and the rows that they have at a time
_SHOWN = 3

# The state of a row, and for one that is recomputed the reason.
MISSING, SAME, UNRECORDED, UNSEEN = "missing", "same", "unrecorded", "unseen"
REASONS = {
    "damaged": "damaged or cut files",
    "path": "files of another video of this name",
    "encoder": "files of another encoder",
    "label": "other labels",
    "start": "another start",
    "end": "another end",
    "video": "videos that were replaced (another size or time of the file, or another content)",
}


def label_value(label: int, label_sets: np.ndarray | None) -> int | list[int] | None:
    """Returns a label as origins have it.

    Args:
      label: class number, or with several labels the row of `label_sets`; -1 unlabeled.
      label_sets: bool [S, C], see `Source`; None for one label a video.
    """
    if label_sets is None:
        return int(label)
    return np.flatnonzero(label_sets[label]).tolist() if label >= 0 else None


def label_text(label: int | list[int] | None) -> str:
    """Returns a label as the column `label` of shards has it."""
    if isinstance(label, list):
        return ";".join(map(str, label)) or NONE_OF_THEM
    return "" if label is None else str(label)


def origin_of(name: str, label: int | list[int] | None, stamp: VideoStamp | None, encoder: str) -> dict:
    """Returns the origin of a row; `label` is a `label_value`, `encoder` a hash."""
    origin: dict = {"path": name, "label": label, "encoder": encoder}
    if stamp is not None:
        origin |= {"start": stamp.start, "end": stamp.end} | ({} if stamp.text is None else {"video": stamp.text})
    return origin


def difference(before: dict, now: dict) -> str:
    """Returns the first entry of REASONS in which two origins differ; "" if they agree in all that both have."""
    now = now | {"label_text": label_text(now["label"])}
    fields = ("path", "encoder", "label", "label_text", "start", "end", "video")
    changed = [field for field in fields if field in before and field in now and before[field] != now[field]]
    return changed[0].removesuffix("_text") if changed else ""


@dataclasses.dataclass(frozen=True)
class RowState:
    """State of the features of a row of a source.

    Attributes:
      state: MISSING; one of REASONS, to be recomputed; SAME; UNRECORDED, of an earlier version, and UNSEEN, of a video that cannot be looked
        at now, whose features stay.
      windows: of features that stay.
      stamp: of the video that they were made from; "" where they do not record it.
    """

    state: str
    windows: int = 0
    stamp: str = ""

    @property
    def is_there(self) -> bool:
        """True if the features stay."""
        return self.state in (SAME, UNRECORDED, UNSEEN)


def look(
    stored: Callable[[str], Stored | None], names: Sequence[str], source: Source, stamps: Stamps, encoder: str
) -> list[RowState]:
    """Compares what a folder has with every row of a source; each process looks at a part, and all return all.

    Args:
      stored: from a name to what there is of it, thread-safe.
      names: of the rows.
      source: the rows.
      stamps: of the source.
      encoder: a hash of what the features are to be made with.
    """
    labels, sets = functools.cache(lambda: source.labels), label_sets_of(source)

    def look_at(number: int) -> tuple:
        """Returns the fields of a RowState."""
        there = stored(names[number])
        if there is None:
            return (MISSING,)
        if there.damaged:
            return ("damaged",)
        now = origin_of(names[number], label_value(int(labels()[number]), sets), stamps.of(number), encoder)
        if reason := difference(there.origin, now):
            return (reason,)
        state = UNSEEN if "video" not in now else SAME if "video" in there.origin else UNRECORDED
        return state, there.windows, there.origin.get("video", "")

    own = process_slice(range(len(names)))
    rows: list[tuple] = []
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(own), _CHUNK):
            rows += pool.map(look_at, own[start : start + _CHUNK])
    return [RowState(*row) for part in processes.allgather_json(rows) for row in part]


def notes(folder: AnyPath, names: Sequence[str], states: Sequence[RowState]) -> list[str]:
    """Returns lines about features that are recomputed, and about those that cannot be compared."""
    of_state: dict[str, list[str]] = {}
    for name, row in zip(names, states, strict=True):
        of_state.setdefault(row.state, []).append(name)
    lines = []
    changed = [
        f"{len(of_state[name]):,} for {why}, {such_as(of_state[name])}" for name, why in REASONS.items() if name in of_state
    ]
    if changed:
        count = sum(len(of_state.get(name, ())) for name in REASONS)
        lines.append(f"{folder}: features of {count:,} of {len(names):,} videos are recomputed: {'; '.join(changed)}")
    if UNRECORDED in of_state:
        lines.append(
            f"{folder}: features of {len(of_state[UNRECORDED]):,} of {len(names):,} videos were made by an earlier version, which did not record their videos: their "
            "labels agree, and whether a video was replaced since cannot be checked; move the folder away to recompute them"
        )
    if UNSEEN in of_state:
        lines.append(
            f"{folder}: {len(of_state[UNSEEN]):,} of {len(names):,} videos cannot be looked at, {such_as(of_state[UNSEEN])}: their features stay, unchecked"
        )
    return lines


def such_as(names: Sequence[str]) -> str:
    """Returns `such as` with the first few names."""
    return f"such as {', '.join(names[:_SHOWN])}"
