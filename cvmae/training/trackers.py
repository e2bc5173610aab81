"""Trackers beside metrics.jsonl and TensorBoard: Weights & Biases and MLflow, `config.log`.

Each has a thread of its own: one that is slow, broken or out of reach holds up no step, and ends no run. What it has of a run is kept in
the workdir, so that a run that resumes continues the same run of the tracker, and sends what a kill left unsent.
"""

import collections
import contextlib
import dataclasses
import importlib
import math
import pathlib
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cvmae.config import flatten
from cvmae.data.worker_processes import signals_blocked
from cvmae.files import local_folder, write_json
from cvmae.parallel import processes
from cvmae.workdir import CONFUSION, CURVES, PAGE, PER_CLASS, PROVENANCE, RECONSTRUCTION, TRACKERS, Report, Workdir

# The field of config.log that turns a tracker on, and the class that does it. The extra and the module to import have its name too.
KINDS = {"wandb": "cvmae.training.wandb_tracker:Wandb", "mlflow": "cvmae.training.mlflow_tracker:Mlflow"}
PICTURES = (CURVES, RECONSTRUCTION, CONFUSION)
FILES = (PAGE, PER_CLASS, PROVENANCE)
WAITING = 10_000  # calls that may wait while a tracker does not answer; then the oldest are dropped
ATTEMPTS = 4  # for a call, before the next one is tried
RETRY_S, LONGEST_RETRY_S = 15.0, 600.0  # from one attempt to the next; it doubles
_NOWHERE = (-1, 0)  # before any call of `write`: (step, which training and evaluation share; number of its calls)
CLOSE_S, CLOSE_FAILING_S = 60.0, 5.0  # that the end of a run waits for a tracker, and for one that fails


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """Name, config and folder of a run, for its trackers.

    Attributes:
      name: of the run, for people.
      config: its fields by dotted name.
      workdir: its folder.
    """

    name: str
    config: Mapping[str, Any]
    workdir: pathlib.Path


class Tracker(Protocol):
    """Interface of a tracker. All calls come from one thread, `open` first; one that raises is repeated later.

    Attributes:
      may_lose: how many of the newest calls of `write` a kill of the process may undo; a run that resumes makes them again.
      whole_steps: True for a tracker that takes one row of a step: `write` is called once a step, with all of its metrics. The newest step
        is not written where the run stops or fails, as it may get more; the run that resumes writes it.
      newest: the newest step that the tracker's run has from earlier starts, which `open` looks up; -1 where it cannot be known.
    """

    may_lose: int
    whole_steps: bool
    newest: int

    def open(self, run: TrackedRun, kept: dict, keep: Callable[[dict], None]) -> str:
        """Opens the run, or a new one where `kept` is of none, and returns where people find it.

        Args:
          run: the run.
          kept: what `keep` was given last for this workdir; {} for nothing.
          keep: keeps in the workdir what tells the tracker's run: at least its id.
        """
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        ...

    def report(
        self, step: int, numbers: Mapping[str, float], pictures: Sequence[pathlib.Path], files: Sequence[pathlib.Path]
    ) -> None:
        """Adds the end of a run: its numbers, pictures (PNG) and other files, HTML among them."""
        ...

    def close(self, end: str) -> None:
        """Closes the run. end: `finished`, `stopped` (it will go on) or `failed`."""
        ...


class Sender:
    """Thread that makes the calls of one tracker in their order, and tries those that fail again.

    Args:
      name: of the tracker, one of KINDS.
      tracker: see Tracker.
      run: for `Tracker.open`.
      kept: what the workdir has of it, with `step`, the newest one that no kill can undo, and `lines`, how many of its calls of `write`.
      keep: writes that into the workdir.
    """

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun, kept: dict, keep: Callable[[str, dict], None]):
        self._name, self._tracker, self._run, self._keep_in_workdir = name, tracker, run, keep
        self._kept = {key: value for key, value in kept.items() if key not in ("step", "lines")}
        self._safe, self._place = (kept.get("step", -1), kept.get("lines", 0)), _NOWHERE
        self._written: collections.deque[tuple[int, int]] = collections.deque(maxlen=tracker.may_lose + 1)
        self._calls: collections.deque[tuple[str, tuple]] = collections.deque([("open", ())], maxlen=WAITING)
        self._row: tuple[int, dict[str, float]] | None = None  # of a step that may get more, for a tracker of whole steps
        self._changed, self._closing, self._failing = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"cvmae-{name}")
        self._thread.start()

    def call(self, method: str, *arguments) -> None:
        """Adds a call, and returns at once."""
        with self._changed:
            if len(self._calls) == WAITING:
                del self._calls[1]  # the first one may be `open`
            self._calls.append((method, arguments))
            self._changed.notify()

    def close(self, end: str) -> None:
        """Makes the remaining calls and closes the tracker's run; gives up where that takes too long."""
        self.call("close", end)
        with self._changed:
            self._closing = True
            self._changed.notify()
        deadline = time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._failing:
                deadline = min(deadline, time.monotonic() + CLOSE_FAILING_S)
            self._thread.join(0.05)
        if self._thread.is_alive() and not self._failing:
            self._warn(f"no answer for {CLOSE_S:g} s at the end of the run")

    def _serve(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls)
                method, arguments = self._calls[0]
            try:
                self._make(method, *arguments)
            except Exception as error:
                failures += 1
                self._failed(error)
                if self._closing and failures > 1:
                    return
                self._wait(min(LONGEST_RETRY_S, RETRY_S * 2 ** (failures - 1)))
                if failures % ATTEMPTS or method == "open":
                    continue
                self._row = None  # or each call after it would fail with it
            else:
                failures, self._failing = 0, False
            with self._changed:
                self._calls.popleft()
            if method == "close":
                return

    def _make(self, method: str, *arguments) -> None:
        if method == "open":
            with signals_blocked():  # for processes that it starts: a signal to all of this run's is not for them
                address = self._tracker.open(self._run, dict(self._kept), self._keep)
            processes.log_once(f"{self._name}: {address}")
            if self._tracker.whole_steps:
                self._safe = max(self._safe, (self._tracker.newest, 1))
                self._tracker.newest = self._safe[0]
        elif method == "write" and self._tracker.whole_steps:
            step, values = arguments
            if self._row is not None and self._row[0] != step:
                self._write_row()
            self._row = step, (self._row[1] if self._row else {}) | values
        elif method == "write":
            self._write(*arguments)
        else:
            if arguments[0] not in ("stopped", "failed"):
                self._write_row()
            getattr(self._tracker, method)(*arguments)
            if method == "close" and self._written and self._written[-1] > self._safe:
                self._keep_place(self._written[-1])

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        current = step, self._place[1] + 1 if step == self._place[0] else 1
        if current > self._safe:  # others were written before a restart, and are the same now
            self._tracker.write(step, values)
            self._written.append(current)
            if len(self._written) == self._written.maxlen:
                self._keep_place(self._written[0])
        self._place = current

    def _write_row(self) -> None:
        if self._row is not None:
            self._write(*self._row)
            self._row = None

    def _keep(self, kept: dict) -> None:
        if kept != self._kept:
            self._kept, self._safe = kept, _NOWHERE  # another run of the tracker has nothing yet
        self._keep_place(self._safe)

    def _keep_place(self, newest: tuple[int, int]) -> None:
        self._safe, (step, lines) = newest, newest
        self._keep_in_workdir(self._name, self._kept | ({"step": step, "lines": lines} if step >= 0 else {}))

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            text = " ".join(str(error).split())
            # Cut between words: half a link leads nowhere.
            text = textwrap.shorten(text, 300, placeholder=" ...") if " " in text[:290] else text[:300]
            self._warn(f"{type(error).__name__}: {text}" if text else type(error).__name__)

    def _warn(self, reason: str) -> None:
        processes.log_once(
            f"warning: {self._name} does not take this run ({reason}); the run continues without it, and tries again now and then; all "
            "numbers are in metrics.jsonl"
        )


class Trackers:
    """All trackers of a run; none in processes other than the main one. Calls return at once, and raise nothing."""

    def __init__(self, config, workdir: Workdir):
        self._workdir, self._lock, self._senders, self.end = workdir, threading.Lock(), {}, "failed"
        log = config.get("log", {})  # configs of earlier versions lack it
        wanted = [kind for kind in KINDS if log.get(kind)] if processes.is_main_process() else []
        self._kept = workdir.read_trackers() if wanted else {}
        fields = {name: value for name, value in flatten(config).items() if value is not None}
        # Trackers keep files of their own, such as those of a run that is offline, on a disk.
        self._folder = local_folder(workdir.path, "trackers")
        run = TrackedRun(log.get("run_name") or workdir.path.absolute().name, fields, self._folder)
        if wanted:
            self._folder.mkdir(parents=True, exist_ok=True)
        for kind in wanted:
            module, _, name = KINDS[kind].partition(":")
            tracker = getattr(importlib.import_module(module), name)(log[kind])
            self._senders[kind] = Sender(kind, tracker, run, self._kept.get(kind, {}), self._keep)

    def _keep(self, kind: str, kept: dict) -> None:
        with self._lock:
            self._kept[kind] = kept
            write_json(self._workdir / TRACKERS, self._kept)

    def catch_up(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Sends the lines of metrics.jsonl that a tracker does not have: one that is new, or whose run a kill ended."""
        for line in lines if self._senders else ():
            self.write(int(line["step"]), {name: value for name, value in line.items() if name != "step"})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        for sender in self._senders.values():
            sender.call("write", step, dict(values))

    def report(self, step: int, report: Report | None) -> None:
        """Adds what a finished run leaves: the numbers of its report, and the pictures and pages in its workdir."""
        if not self._senders:
            return
        numbers = {} if report is None else _finite({f"report/{name}": value for name, value in report.metrics.items()})
        baseline = (
            {} if report is None else _finite({f"report/untrained/{name}": value for name, value in report.baseline.items()})
        )
        pictures, files = (
            [self._local(name) for name in names if (self._workdir / name).exists()] for names in (PICTURES, FILES)
        )
        for sender in self._senders.values():
            sender.call("report", step, numbers | baseline, pictures, files)

    def _local(self, name: str) -> pathlib.Path:
        """Returns a file of the workdir on a disk."""
        path = self._workdir / name
        if isinstance(path, pathlib.Path):
            return path
        path.download(self._folder / name)
        return self._folder / name

    def close(self) -> None:
        """Ends every tracker's run as `end` says; waits for a limited time."""
        for sender in self._senders.values():
            sender.close(self.end)


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float) and math.isfinite(value)}


@contextlib.contextmanager
def opened(config, workdir: Workdir) -> Iterator[Trackers]:
    """Yields the trackers of config.log, and closes their runs at the end of the block."""
    with contextlib.closing(Trackers(config, workdir)) as trackers:
        yield trackers
