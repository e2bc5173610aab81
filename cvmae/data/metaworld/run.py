"""Preparation of the Meta-World set: renders the clips that are missing, and writes the manifests."""

import collections
import csv
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from cvmae.config import nearest
from cvmae.data import worker_pool
from cvmae.data.lines import counted
from cvmae.data.metaworld import clips, system
from cvmae.data.metaworld.clips import Clip
from cvmae.data.metaworld.spec import DIRECTIONS, LABELS, MAX_STEPS, OBJECT_OF, SPLITS, TASKS, VERSION
from cvmae.data.prepare.state import State
from cvmae.data.prepare.text import PrepareError, write_table
from cvmae.data.prepare.work import identity
from cvmae.data.worker_pool import StopRun
from cvmae.storage.client import scheme_of

_CLIPS_PER_JOB = 10  # what a killed run repeats for each process at most
_SETTINGS = "settings"  # key of the options on which the frames depend, in the state of --out
_FACTS = ("attempt", "steps")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run. The fields are flags of `python -m cvmae.data.prepare`; its --help describes them.

    Raises: PrepareError if a value is out of range.
    """

    out: str
    tasks: str = ""
    clips: int = 100
    val_clips: int = 10
    test_clips: int = 25
    side: int = 96
    frames: int = 16
    seed: int = 0
    workers: int = 0
    timeout_s: float = 600.0

    def __post_init__(self):
        for field, is_valid, expected in (
            ("out", self.out and not scheme_of(self.out), "a local folder for the clips and manifests"),
            ("clips", 0 < self.clips <= 9999, "a number of training clips a task, 1 to 9999"),
            ("val_clips", 0 < self.val_clips <= 9999, "a number of validation clips a task, 1 to 9999"),
            ("test_clips", 0 < self.test_clips <= 9999, "a number of test clips a task, 1 to 9999"),
            ("side", 16 <= self.side <= 1024 and self.side % 2 == 0, "the side of the frames in pixels, even, 16 to 1024"),
            ("frames", 1 < self.frames <= MAX_STEPS, f"a number of frames, 2 to {MAX_STEPS}, the steps of the longest episode"),
            ("seed", self.seed >= 0, "a number, 0 or more"),
            ("workers", self.workers >= 0, "a number of processes, 0 for one per core"),
            ("timeout_s", self.timeout_s >= 0, "seconds, 0 for no limit"),
        ):
            if not is_valid:
                raise PrepareError(f"--{field}={getattr(self, field)} must be {expected}")
        for task in self.task_names:
            if task not in TASKS:
                raise PrepareError(f"--tasks={self.tasks}: Meta-World has no task {task!r}: {nearest(task, TASKS)}")

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks of the set, sorted."""
        return tuple(sorted({name.strip() for name in self.tasks.split(",")})) if self.tasks else TASKS

    @property
    def all_clips(self) -> list[Clip]:
        """Clips of the set, by task, split and number."""
        counts = [(split.name, getattr(self, split.option)) for split in SPLITS]
        return [Clip(split, task, n) for task in self.task_names for split, count in counts for n in range(count)]


def prepare(options: Options) -> dict[str, str]:
    """Renders the set into the folder `out`, and prints counts. Clips that an earlier run rendered are kept.

    Returns:
      The paths of the manifests by the labels that they have: task, object, direction.

    Raises:
      PrepareError: an option cannot be used, a package or library is missing, or `out` has a set with other options.
      StopRun: clips cannot be rendered or written.
    """
    backend = system.choose_backend()
    with State(options.out) as state:
        _check_settings(options, state)
        facts = {clip: kept for clip in options.all_clips if (kept := _facts_of(options, state, clip)) is not None}
        jobs = _jobs(options, state, backend, [clip for clip in options.all_clips if clip not in facts])
        with _progress(len(options.all_clips), len(facts)) as bar:
            for clip, clip_facts in _render(options, jobs):
                state.remember(_key(clip), {"facts": clip_facts, "files": _identities(options, clip)})
                facts[clip] = clip_facts
                bar.update()
        note = left_out(options)
        manifests = write_manifests(options, facts)
    print(note + summary(options, manifests))
    return manifests


def _check_settings(options: Options, state: State) -> None:
    """Raises PrepareError if `out` has clips with other frames than these options give."""
    settings = {"side": options.side, "frames": options.frames, "seed": options.seed, "version": VERSION}
    kept = state.recall(_SETTINGS)
    if kept is None:
        state.remember(_SETTINGS, settings)
    elif kept != settings:
        different = ", ".join(
            f"{name} {kept.get(name)} (now {value})" for name, value in settings.items() if kept.get(name) != value
        )
        raise PrepareError(f"--out={options.out} has clips of {different}: take another folder, or the same options")


def _key(clip: Clip) -> str:
    return json.dumps(dataclasses.astuple(clip))


def _identities(options: Options, clip: Clip) -> list:
    return [identity(os.path.join(options.out, path)) for path in clip.paths]


def _facts_of(options: Options, state: State, clip: Clip) -> dict | None:
    """Returns the facts of a clip that an earlier run rendered; None without one, or if a file of it is not as it was."""
    kept = state.recall(_key(clip))
    return kept["facts"] if kept is not None and kept["files"] == _identities(options, clip) else None


def _jobs(options: Options, state: State, backend: str, missing: list[Clip]) -> list[dict]:
    """Returns jobs of a few clips of one task and split each."""
    common: dict[str, Any] = {"out": os.path.abspath(options.out), "temporary": os.path.abspath(state.temporary)}
    common |= {"backend": backend, "side": options.side, "frames": options.frames, "seed": options.seed}
    numbers = collections.defaultdict(list)
    for clip in missing:
        numbers[clip.task, clip.split].append(clip.number)
    return [
        common | {"task": task, "split": split, "numbers": listed[first : first + _CLIPS_PER_JOB]}
        for (task, split), listed in numbers.items()
        for first in range(0, len(listed), _CLIPS_PER_JOB)
    ]


def _render(options: Options, jobs: list[dict]) -> Iterator[tuple[Clip, dict]]:
    """Runs jobs in worker processes; yields each clip with its facts."""
    for job, answer in worker_pool.run(clips.FUNCTION, jobs, options.workers, options.timeout_s) if jobs else ():
        split, task, numbers = job["split"], job["task"], job["numbers"]
        if isinstance(answer, worker_pool.Failure):
            shown = f"clips {numbers[0]} to {numbers[-1]} of {task} in {split}"
            raise StopRun(f"{options.out}: {shown} cannot be rendered: {answer}; the same command continues with them")
        yield from ((Clip(split, task, number), facts) for number, facts in zip(numbers, answer["facts"], strict=True))


def left_out(options: Options) -> str:
    """Returns a line about clips that the manifest in `out` lists and these options leave out; '' without any."""
    path = os.path.join(options.out, "task.csv")
    if not os.path.exists(path):
        return ""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        listed = {row.get("path"): row.get("label") for row in csv.DictReader(file)}
    gone = listed.keys() - {clip.path for clip in options.all_clips}
    if not gone:
        return ""
    tasks = sorted({listed[clip] or "" for clip in gone} - set(options.task_names))
    of_tasks = f" (the tasks {', '.join(tasks)} among them)" if tasks else ""
    return (
        f"note: {path} listed {counted(len(gone), 'clip')} that these options leave out{of_tasks}: their files stay, and options "
        "that name them list them again\n"
    )


def write_manifests(options: Options, facts: dict[Clip, dict]) -> dict[str, str]:
    """Writes a manifest for each kind of labels, with the same episodes in the same splits; returns their paths.

    The columns after path, label and split say how a clip was made; readers of manifests pass over them.
    """
    rows: dict[str, list[list]] = {labels: [] for labels in LABELS}
    for clip in options.all_clips:
        of_clip = facts[clip]
        numbers = [clip.number, *(of_clip[name] for name in _FACTS)]
        for labels, label in (("task", clip.task), ("object", OBJECT_OF[clip.task])):
            rows[labels].append([clip.path, label, clip.split, *numbers, of_clip["first"], of_clip["last"]])
        for direction in DIRECTIONS:
            ends = [of_clip["inside_first"], of_clip["inside_last"]]
            path, label = clip.directed_path(direction), clips.directed(clip.task, direction)
            rows["direction"].append([path, label, clip.split, *numbers, *(ends if direction == DIRECTIONS[0] else ends[::-1])])
    header = ["path", "label", "split", "episode", *_FACTS, "first_step", "last_step"]
    paths = {labels: os.path.join(options.out, f"{labels}.csv") for labels in LABELS}
    for labels, path in paths.items():
        write_table(path, header, rows[labels])
    return paths


def summary(options: Options, manifests: dict[str, str]) -> str:
    """Returns the numbers of clips by split, the size of the files, and the manifests."""
    counts = collections.Counter(clip.split for clip in options.all_clips)
    size = sum(os.path.getsize(os.path.join(options.out, path)) for clip in options.all_clips for path in clip.paths)
    lines = [f"{len(options.task_names)} tasks; clips: {', '.join(f'{count:,} {split}' for split, count in counts.items())}"]
    lines.append(f"{size / 1e6:,.1f} MB, of which two in three files are for direction.csv")
    return "\n".join([*lines, *(f"manifest: {path}" for path in manifests.values())])


def _progress(total: int, done: int):
    seconds = 0.5 if sys.stderr.isatty() else 30  # between updates: in a log file, each is a line
    return tqdm(
        total=total, initial=done, desc="metaworld", unit="clip", file=sys.stderr, dynamic_ncols=True, mininterval=seconds
    )
