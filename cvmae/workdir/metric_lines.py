"""Lines of a run's metrics: one file on a disk, and in a bucket, where nothing can be appended to, parts that are joined.

In a bucket a process writes its lines into parts of `metrics.parts`, each written whole again with every line until it is full. The
next process, and the end of a run, joins them into `metrics.jsonl`; readers take both.
"""

import concurrent.futures
import json
import os
import pathlib
from typing import Protocol

from cvmae.files import copy_aside, set_aside
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath
from cvmae.workdir import FEATURES, FIGURES, METRICS

PARTS = "metrics.parts"
PART_LINES = 500
_LARGEST = 64 << 20  # bytes of a file that a report reads


def read_lines(workdir: str | os.PathLike | RemotePath) -> list[str]:
    """Returns the lines of a run's metrics, those of all parts; [] where nothing was logged."""
    folder = as_path(workdir)
    files = [folder / METRICS]
    if isinstance(folder, RemotePath):
        files += list((folder / PARTS).iterdir())
    lines = [line for file in files if file.is_file() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    # A process that was killed while it joined left lines in both places.
    return list(dict.fromkeys(lines)) if isinstance(folder, RemotePath) else lines


def step_of(line: str) -> int | None:
    """Returns the step of a line of metrics; None for a damaged one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def last_step(workdir: str | os.PathLike | RemotePath) -> int:
    """Returns the highest step of a run's metrics, 0 without any; damaged lines do not count."""
    try:
        lines = read_lines(workdir)
    except OSError:
        return 0
    return max((step for step in map(step_of, lines) if step is not None), default=0)


def lines_up_to(workdir: str | os.PathLike | RemotePath, step: int) -> list[str]:
    """Returns the lines of the steps up to `step`; those that are damaged are left out, and their file is kept under another name."""
    lines = read_lines(workdir)
    steps = [step_of(line) for line in lines]
    broken = [number for number, of_line in enumerate(steps, 1) if of_line is None]
    path = as_path(workdir) / METRICS
    if broken == [len(lines)]:
        processes.log_once(f"{path}: the last line was cut short, as a kill does, and is left out")
    elif broken and path.is_file():
        new = copy_aside(path)
        processes.log_once(
            f"{path}: {len(broken)} lines are no metrics, the first is line {broken[0]}: they are left out, and the file as it was is {new.name}"
        )
    return [line for line, of_line in zip(lines, steps, strict=True) if of_line is not None and of_line <= step]


def set_lines_aside(workdir: str | os.PathLike | RemotePath) -> AnyPath:
    """Keeps the lines of a run under another name, and returns its path; the run then has none."""
    folder = as_path(workdir)
    if isinstance(folder, RemotePath):
        _join(folder, read_lines(folder))
    return set_aside(folder / METRICS, "earlier")


class LineWriter(Protocol):
    """A writer of lines, each kept when `write` returns."""

    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


def open_lines(workdir: str | os.PathLike | RemotePath, resumed_step: int) -> LineWriter:
    """Opens a run's metrics for writing; lines after the resumed step are dropped."""
    folder = as_path(workdir)
    return _Parts(folder, resumed_step) if isinstance(folder, RemotePath) else _AppendedFile(folder / METRICS, resumed_step)


class _AppendedFile:
    """Lines appended to a file."""

    def __init__(self, path: pathlib.Path, resumed_step: int):
        if path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in lines_up_to(path.parent, resumed_step)), encoding="utf-8")
            os.replace(temporary, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parts:
    """Lines in the parts of a bucket."""

    def __init__(self, workdir: RemotePath, resumed_step: int):
        self._workdir, self._step, self._number = workdir, resumed_step, 0
        self._lines: list[str] = []
        _join(workdir, lines_up_to(workdir, resumed_step))

    def write(self, line: str) -> None:
        self._lines.append(line + "\n")
        (self._workdir / PARTS / f"{self._step:09d}-{self._number:05d}.jsonl").write_text("".join(self._lines))
        if len(self._lines) == PART_LINES:
            self._lines, self._number = [], self._number + 1

    def close(self) -> None:
        _join(self._workdir, read_lines(self._workdir))


def _join(workdir: RemotePath, lines: list[str]) -> None:
    """Writes the lines into one object, and then deletes the parts."""
    stale = list((workdir / PARTS).iterdir())
    if stale or (workdir / METRICS).is_file():
        (workdir / METRICS).write_text("".join(f"{line}\n" for line in lines))
    for old in stale:
        old.unlink(missing_ok=True)


def copy_small_files(workdir: RemotePath, target: pathlib.Path) -> None:
    """Copies what a report reads of a workdir in a bucket into a local folder: no checkpoints, weights or features."""
    folders = [workdir, workdir / FIGURES]
    features = (workdir / FEATURES).listing()
    lists = [workdir / FEATURES, *(workdir / FEATURES / name for name, status in features.items() if status is None)]
    files = [
        (folder / name)
        for folder in (*folders, *lists)
        for name, status in folder.listing().items()
        if status and status.size <= _LARGEST and (folder not in lists or name.endswith("bad_files.csv"))
    ]

    def copy(file: RemotePath) -> None:
        path = target / file.relative_to(workdir)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.download(path)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(copy, files))
    lines = read_lines(workdir)
    if lines:
        (target / METRICS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
