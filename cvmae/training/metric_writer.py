"""Metrics as JSON lines and TensorBoard events that read like one uninterrupted run, however often it restarted."""

import json
import os
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

from cvmae.parallel import processes
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath
from cvmae.training.trackers import Trackers
from cvmae.workdir import METRICS, TENSORBOARD
from cvmae.workdir.metric_lines import open_lines, read_lines


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the terms and the step."""


def _tensorboard():
    """Imports tensorboardX without torch, which it would import for what is not written here: a second and a half of every start."""
    loaded = sys.modules.get("torch")
    if loaded is None:
        sys.modules["torch"] = None  # as if it were not installed
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    finally:
        if loaded is None:
            del sys.modules["torch"]
    return event_file_writer, summary, event_pb2


UPLOAD_S = 60.0


class EventsFile:
    """A file of TensorBoard's scalars.

    In a bucket it is uploaded whole, every UPLOAD_S seconds and at the end, from a temporary folder: what was logged since is lost where
    the process is killed. metrics.jsonl has it.

    tensorboardX's SummaryWriter writes in a thread, whose end (the disk is full) it does not notice: the run would then wait for
    it forever.
    """

    def __init__(self, folder: AnyPath, purge_step: int, suffix: str):
        self._remote = folder if isinstance(folder, RemotePath) else None
        self._uploaded = time.monotonic()
        if isinstance(folder, RemotePath):
            self._temporary = tempfile.TemporaryDirectory(prefix="cvmae-events-")
            folder = pathlib.Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        writer, self._summary, self._events = _tensorboard()
        self._writer = writer.EventsWriter(str(folder / "events"), suffix)
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(purge_step, file_version="brain.Event:2")
        self._write(purge_step, session_log=start)

    def _write(self, step: int, **content) -> None:
        self._writer.write_event(self._events.Event(step=step, wall_time=time.time(), **content))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the scalars of a step, on disk when this returns."""
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, value))
        self._writer.flush()
        if self._remote is not None and time.monotonic() - self._uploaded > UPLOAD_S:
            self._upload()

    def _upload(self) -> None:
        assert self._remote is not None
        for file in self._folder.iterdir():
            (self._remote / file.name).upload(file)
        self._uploaded = time.monotonic()

    def close(self) -> None:
        self._writer.close()
        if self._remote is not None:
            self._upload()
            self._temporary.cleanup()


def to_floats(metrics: dict) -> dict[str, float]:
    """Scalars on the devices as floats, sorted by name; waits for them."""
    return {name: float(value) for name, value in sorted(jax.device_get(metrics).items())}


def check_finite(step: int, metrics: dict[str, float], good: int | None) -> None:
    """Raises NonFiniteError where a metric is not finite.

    Args:
      step: of the metrics.
      metrics: floats.
      good: the newest checkpoint, for the message.
    """
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        terms = [name for name in bad if name.startswith("loss/")] or bad
        kept = "no checkpoint was written yet" if good is None else f"the checkpoint of step {good} stays"
        raise NonFiniteError(
            f"step {step}: {', '.join(terms)} is not finite ({', '.join(f'{n}={metrics[n]}' for n in bad)}); {kept}. "
            "Lower config.optimizer.base_lr, lengthen optimizer.warmup, or set optimizer.clip_norm"
        )


class MetricsWriter:
    """Writes `workdir`/metrics.jsonl and TensorBoard events, and passes the same on to trackers.

    A line holds `step` and flat keys. On a restart, lines after the resumed step are dropped before anything is written.
    """

    def __init__(self, workdir: str | os.PathLike | RemotePath, resumed_step: int, trackers: Trackers | None = None):
        self.path = as_path(workdir) / METRICS
        self._lines = open_lines(workdir, resumed_step)
        self._trackers = trackers
        if trackers is not None and resumed_step:
            trackers.catch_up(read_metrics(workdir))
        # TensorBoard leaves out what an earlier process wrote from this step on, also where that process saved nothing.
        purge = resumed_step + 1
        # tensorboardX names files by the second, and would write over the file of a run that ended within it.
        suffix = f".{resumed_step}.{os.getpid()}"
        self._events = EventsFile(as_path(workdir) / TENSORBOARD, purge, suffix)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line, on disk when this returns."""
        self._lines.write(json.dumps({"step": step} | values))
        self._events.write(step, values)
        if self._trackers is not None:
            self._trackers.write(step, values)

    def close(self) -> None:
        try:
            self._lines.close()
        finally:
            self._events.close()


class Silent:
    """A writer that writes nothing."""

    def write(self, step: int, values: dict[str, float]) -> None:
        del step, values

    def close(self) -> None:
        pass


def open_writer(
    workdir: str | os.PathLike | RemotePath, resumed_step: int, trackers: Trackers | None = None
) -> MetricsWriter | Silent:
    """The writer of this process: of several, one writes."""
    return MetricsWriter(workdir, resumed_step, trackers) if processes.is_main_process() else Silent()


def read_metrics(workdir: str | os.PathLike | RemotePath) -> list[dict]:
    """The lines of `workdir`/metrics.jsonl."""
    return [json.loads(line) for line in read_lines(workdir)]


def last_logged(workdir: str | os.PathLike | RemotePath) -> dict[str, float]:
    """Returns the metrics of the newest logged step of training, those of evaluations aside; {} where none was logged."""
    for line in reversed(read_metrics(workdir)):
        if "time/seconds" in line:
            return {name: value for name, value in line.items() if name != "step"}
    return {}


def summary(metrics: dict[str, float]) -> str:
    """The terms and the speed, for the progress bar."""
    terms = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in metrics.items() if name.startswith("loss")]
    return f"{' '.join(terms)} {metrics['time/clips_per_second']:.0f} clips/s"


class Clock:
    """Training time over restarts, and the fraction of it spent waiting for data."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self._last = seconds, time.perf_counter()
        self._waited = self._since = 0.0
        self._steps = 0

    def restart(self) -> None:
        """Leaves out the time since the last step, which was not training."""
        self._last = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Counts seconds spent waiting for a batch."""
        self._waited += seconds

    def tick(self) -> None:
        """Counts a step."""
        now = time.perf_counter()
        self.seconds, self._since, self._last = self.seconds + now - self._last, self._since + now - self._last, now
        self._steps += 1

    def report(self, batch_size: int) -> dict[str, float]:
        """Rates since the last report."""
        since = max(self._since, 1e-9)
        rates = {
            "time/clips_per_second": self._steps * batch_size / since,
            "time/input_wait_share": min(1.0, self._waited / since),
            "time/seconds": self.seconds,
        }
        self._waited, self._since, self._steps = 0.0, 0.0, 0
        return rates
