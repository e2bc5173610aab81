"""The training loop, one for every task: batches in, steps, metrics, evaluation, checkpoints, and the end.

It knows a task only by what `TrainableTask` declares, draws nothing, and writes what a restart needs.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from tqdm import tqdm

from cvmae.config import ConfigError, require
from cvmae.data.bad_files import BadDataError, BadFiles
from cvmae.data.pipeline import Loader, make_loader
from cvmae.data.proportions import ClipCounts
from cvmae.data.sources import Source
from cvmae.data.worker_pool import available_cores
from cvmae.files import StorageError
from cvmae.parallel import processes
from cvmae.parallel.mesh import Placement
from cvmae.parallel.progress import training_bar
from cvmae.training import identity, provenance
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.first_step import check_start
from cvmae.training.input_meter import InputMeter, Readers
from cvmae.training.metric_writer import (
    Clock,
    MetricsWriter,
    NonFiniteError,
    Silent,
    check_finite,
    last_logged,
    open_writer,
    summary,
    to_floats,
)
from cvmae.training.preemption import stop_requested
from cvmae.training.run_schedule import Schedule
from cvmae.training.trace import StepTrace
from cvmae.training.trackers import Trackers
from cvmae.training.train_state import TrainState
from cvmae.training.workdir_lock import LostLockError, check_held
from cvmae.workdir import PROFILE, Workdir

# Errors that all processes of a run raise alike; any other may be the end of one of them.
SHARED_ERRORS = (ConfigError, BadDataError, NonFiniteError)


class TrainableTask(Protocol):
    """The methods of a task that the loop calls; `cvmae.tasks.base.Task` documents each."""

    config: Any
    placement: Placement
    evaluated_source: Source | None
    tested_source: Source | None

    def initial_state(self) -> TrainState: ...

    def abstract_state(self) -> TrainState: ...

    def step(self, state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict]: ...

    def evaluate(self, state: TrainState) -> dict[str, float]: ...


class Outcome(NamedTuple):
    """The end of `run`: the state, the last logged metrics, and whether the run has come to its end or was asked to stop."""

    state: TrainState
    metrics: dict[str, float]
    finished: bool


def run(task: TrainableTask, source: Source, schedule: Schedule, workdir: Workdir, trackers: Trackers | None = None) -> Outcome:
    """Trains from the newest checkpoint in `workdir`, or from the start, to the end or until a signal asks to stop.

    Calling it again after any interruption gives the numbers of an uninterrupted run.

    Args:
      task: what a step computes.
      source: the training clips.
      schedule: of task.config over these clips.
      workdir: for checkpoints, metrics and the list of unreadable files.
      trackers: take the metrics too.

    Raises:
      ConfigError: the checkpoint in `workdir` is of another run.
      BadDataError: too many files cannot be read.
      NonFiniteError: a loss or gradient is not finite; the last good checkpoint stays.
    """
    with stop_requested() as stop:
        with TrainLoop.open(task, source, schedule, workdir, trackers) as loop:
            provenance.record(workdir, loop.step, loop.changed_fields)
            workdir.write_config(task.config)  # not before the checkpoint there is known to be of this config
            metrics = loop.run(stop)
            limits = loop.meter.summary(loop.loader.counts)
        # Several processes agree on a step in `stop`, once for each step.
        stopped = loop.stopping or (processes.is_single_process() and stop(loop.step))
    processes.log_once(*limits)
    if stopped:
        processes.log_once(f"stopped at step {loop.step} of {schedule.total}, saved; the same command resumes from there")
    return Outcome(loop.state, metrics, finished=not stopped)


def describe(config, schedule: Schedule, clips: int) -> str:
    """Formats the size of a run as a line to print: clips, batch, steps, epochs, devices."""
    among = "" if processes.is_single_process() else f" of {jax.process_count()} processes"
    return (
        f"{clips} clips, batch {config.batch_size} (global), {schedule.total} steps = "
        f"{schedule.total / schedule.steps_per_epoch:.1f} epochs, {jax.device_count()} {jax.default_backend()} device(s){among}"
    )


class PendingMetrics(NamedTuple):
    """The metrics and failure reports of a step that still runs on the devices."""

    step: int
    metrics: dict[str, jax.Array]
    failures: Callable[[], np.ndarray]


class TrainLoop:
    """The state of a run in one process, and everything that has to be closed. Made by `open`."""

    writer: MetricsWriter | Silent
    loader: Loader
    meter: InputMeter
    progress: tqdm
    trace: StepTrace

    def __init__(self, task: TrainableTask, source: Source, schedule: Schedule, workdir: Workdir, checkpoints: Checkpoints):
        self.task, self.schedule, self.checkpoints = task, schedule, checkpoints
        config = self.config = task.config
        self.identity = identity.describe(config, source, task.evaluated_source, task.tested_source)
        self.workdir = workdir
        self.changed_fields: dict[str, list] = {}
        self.state, position = self._restore()
        self.step, self.replaced, self.clock = position["step"], position.get("replaced", 0), Clock(position.get("seconds", 0.0))
        # True if the evaluation of the checkpoint's step ended with held-out clips that could not be read.
        self.unevaluated = position.get("unevaluated", False)
        self.clip_counts = ClipCounts(source, config.batch_size, position)
        writes = processes.is_main_process()
        self.bad_files = BadFiles(workdir, len(source), config.data.max_bad_fraction, writes=writes)
        self.metrics: dict[str, float] = {}
        self._pending: PendingMetrics | None = None
        self._first = True
        self.stopping = False

    def _restore(self) -> tuple[TrainState, dict]:
        """The newest checkpoint and its position, or a new state at step 0. Raises: ConfigError."""
        restored = self.checkpoints.restore(self.task.abstract_state(), self.identity, self.config)
        if restored is None:
            check_start(self.workdir, self.schedule.first_checkpoint)
            return self.task.initial_state(), {"step": 0, "seconds": 0.0, "replaced": 0}
        step, total = restored[1]["step"], self.schedule.total
        require(
            step <= total,
            f"the checkpoint is of step {step}, past config.total={self.config.total} ({total} steps): "
            "raise config.total, or give another --workdir",
        )
        if step == total and "unevaluated" not in restored[1]:
            at_end = f"this run was finished already, at step {step} of {total}"
            processes.log_once(f"{at_end}: its results are computed from the checkpoint there")
        else:
            processes.log_once(f"resumed from the checkpoint of step {step}")
        self.changed_fields = identity.tell_changed_fields(self.workdir, self.config, step)
        return restored

    @classmethod
    @contextlib.contextmanager
    def open(cls, task: TrainableTask, source: Source, schedule: Schedule, workdir: Workdir, trackers: Trackers | None = None):
        """Yields a loop with its checkpoints, writer, loader and progress bar open, and closes them in the opposite order.

        A checkpoint that is being written is finished first. Not so after an error that may be another process's end:
        without that one no checkpoint becomes complete.
        """
        with contextlib.ExitStack() as stack:
            trace = stack.enter_context(contextlib.closing(StepTrace(schedule.profile, workdir / PROFILE)))
            checkpoints = Checkpoints(workdir, task.config.checkpoint_keep)
            stack.push(lambda kind, error, traceback: _close_checkpoints(checkpoints, error))
            loop = cls(task, source, schedule, workdir, checkpoints)
            loop.trace = trace
            loop.writer = open_writer(workdir, loop.step, trackers)
            stack.push(lambda kind, error, traceback: _close_writer(loop.writer, error))
            shard = task.placement.shard
            loader = make_loader(task.config, source, start_step=loop.step, process_index=shard.index, process_count=shard.count)
            loop.loader = stack.enter_context(contextlib.closing(loader))
            loop.meter = stack.enter_context(contextlib.closing(InputMeter(_readers(task.config, shard.count))))
            loop.progress = stack.enter_context(contextlib.closing(training_bar(schedule.total, loop.step)))
            yield loop

    def run(self, stop: Callable[[int], bool]) -> dict[str, float]:
        """Runs to the end or until `stop(step)`; returns the last logged metrics.

        The order is: evaluate, checkpoint, then draw the next batch. So the saved position in the data belongs to the saved step.
        """
        start = self.step
        if start == self.schedule.total and not self.unevaluated:
            return processes.allgather_json(last_logged(self.workdir) if processes.is_main_process() else {})[0]
        self.progress.set_postfix_str("compiling")
        while True:
            check_held(self.workdir)
            self.stopping = stop(self.step)
            if self.unevaluated or (self.step > start and self.schedule.due(self.schedule.evaluate, self.step)):
                self.evaluate()
            if self.step > start:
                keep = self.schedule.due(self.schedule.keep, self.step)
                is_due = keep or self.schedule.due(self.schedule.checkpoint, self.step)
                if is_due or self.stopping or self.step == self.schedule.total:
                    self.save(keep)
            if self.stopping or self.step == self.schedule.total:
                self.read_metrics()
                return self.metrics
            self.advance()

    def evaluate(self) -> None:
        """Evaluates and logs this step. Raises: BadDataError, after a checkpoint of the step, with which a resume evaluates it again."""
        self.read_metrics()
        try:
            numbers = self.task.evaluate(self.state)
        except BadDataError:
            if not self.unevaluated:
                self.unevaluated = True
                self.save(self.schedule.due(self.schedule.keep, self.step))
            raise
        self.unevaluated = False
        self.writer.write(self.step, numbers)
        self.clock.restart()

    def advance(self) -> None:
        """Draws a batch and does one step; reads the metrics of the step before, while this one runs."""
        with self.trace.step(self.step + 1):
            begin = time.perf_counter()
            batch = next(self.loader)
            drawn = time.perf_counter()
            self.clock.waited(drawn - begin)
            failures = self.task.placement.gather_reports(batch["failures"])
            if self._first and self._pending is None:
                self.bad_files.update(failures())  # too many unreadable files end a run before the minutes that compilation takes
            self.state, metrics = self.task.step(self.state, batch)
            self.meter.started(begin, drawn, metrics)
        if self.trace.finish(self.step + 1, metrics):
            self.clock.restart()
        self.read_metrics()
        self.step += 1
        self._pending = PendingMetrics(self.step, metrics, failures)

    def read_metrics(self) -> None:
        """Waits for the newest step, checks its clips and that its numbers are finite, and logs them where that is due."""
        if self._pending is None:
            return
        step, pending, failures = self._pending
        self._pending = None
        self.replaced += self.bad_files.update(failures())
        metrics = to_floats(pending)
        check_finite(step, metrics, self.checkpoints.latest)
        self.clock.tick()
        self.progress.update()
        if self._first:
            self._first = False
            self.progress.unpause()  # leaves compilation out of the time that is left
        if self.schedule.due(self.schedule.log, step):
            rates = self.clock.report(self.config.batch_size)
            metrics = self.clip_counts.complete(step, metrics)
            self.metrics = metrics | {"data/replaced_clips": self.replaced} | rates | self.meter.report(self.loader.counts)
            self.writer.write(step, self.metrics)
            self.progress.set_postfix_str(summary(self.metrics), refresh=False)

    def save(self, permanent: bool = False) -> None:
        """Starts a checkpoint of this step, after its numbers are known to be finite; a permanent one is never deleted."""
        self.read_metrics()
        check_held(self.workdir, look=True)
        position = {"step": self.step, "seconds": self.clock.seconds, "replaced": self.replaced} | self.identity
        position |= self.clip_counts.position(self.step) | ({"unevaluated": True} if self.unevaluated else {})
        self.checkpoints.save(self.step, self.state, position, permanent=permanent)


def _close_checkpoints(checkpoints: Checkpoints, error: BaseException | None) -> bool:
    """Waits for a checkpoint that is being written, unless an error may be the end of another process."""
    only_here = isinstance(error, Exception) and not isinstance(error, SHARED_ERRORS)
    if processes.is_single_process() or not only_here:
        # Where the folder is gone, so is what was being written there, which the first error has said.
        with contextlib.suppress(StorageError) if isinstance(error, LostLockError) else contextlib.nullcontext():
            checkpoints.close()
    return False


def _close_writer(writer: MetricsWriter | Silent, error: BaseException | None) -> bool:
    """Closes the metrics, which in a bucket writes them once more, unless the folder is another's by now."""
    if not isinstance(error, LostLockError):
        writer.close()
    return False


def _readers(config, processes_of_run: int) -> Readers:
    data = config.data
    return Readers(config.batch_size, max(1, data.workers) * max(1, data.threads), processes_of_run, available_cores())
