"""The loop: one for every task.

A task is a small object, see `task.Task`: `init() -> state`, `abstract_state()`, `step(state, batch) -> state, metrics`,
`evaluate(state) -> metrics`, and `finish(state, workdir)` for what is written once at the end. Tasks differ there and
nowhere else.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import time

import jax
from tqdm import tqdm

from cvmae.config import ConfigError, require, steps
from cvmae.data.bad_files import BadDataError, BadFiles
from cvmae.data.pipeline import make_loader
from cvmae.data.sources import make_source
from cvmae.files import write_json
from cvmae.parallel import processes
from cvmae.parallel.mesh import make_mesh
from cvmae.tasks.fields import fields
from cvmae.tasks.finetune import Finetune
from cvmae.tasks.pretrain import Pretrain
from cvmae.tasks.probe import Probe
from cvmae.tasks.validate import config_errors, validate
from cvmae.training import provenance
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.metric_writer import NonFiniteError, check_finite, open_writer, to_floats
from cvmae.training.preemption import stop_requested

# Errors that all processes of a run raise alike; any other may be the end of one of them.
SHARED_ERRORS = (ConfigError, BadDataError, NonFiniteError)
TASKS = {"pretrain": Pretrain, "finetune": Finetune, "linear": Probe, "attentive": Probe}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and when it does what, in steps; an interval of 0 is never."""

    total: int
    log: int
    evaluate: int
    checkpoint: int
    steps_per_epoch: float

    @classmethod
    def of(cls, config, clips: int) -> "Schedule":
        """Resolves the durations of a config over `clips` training clips. Raises: ConfigError."""
        epoch = clips / config.batch_size
        total = steps(config.total, "total", steps_per_epoch=epoch)
        every = {
            name: steps(config[f"{name}_every"], f"{name}_every", steps_per_epoch=epoch, total=total)
            for name in ("log", "eval", "checkpoint")
        }
        return cls(total, every["log"], every["eval"], every["checkpoint"], epoch)

    def due(self, interval: int, step: int) -> bool:
        """Whether something of that interval happens at a step; the last step has everything that happens at all."""
        return bool(interval) and (step % interval == 0 or step == self.total)


def train(config, workdir: str) -> dict[str, float]:
    """Runs config's task in `workdir` from its newest checkpoint, or from the start, to its end.

    Calling it again after any interruption gives the numbers of an uninterrupted run.

    Returns:
      The last logged metrics and the numbers of the report. Empty if a signal asked to stop: the state is then saved, and the
      same call goes on. Called after its end, it makes the report anew.

    Raises:
      ConfigError: the config cannot run; nothing is compiled or written then.
      BadDataError: too many files cannot be read.
      NonFiniteError: a loss or gradient is not finite; the last good checkpoint stays.
    """
    validate(config)
    with config_errors("data"):
        source = make_source(config.data, config.data.split)
    plan = Schedule.of(config, len(source))
    task = TASKS[config.task](config, make_mesh(config.mesh), plan.total, plan.steps_per_epoch)
    task.open()
    folder = make_folder(workdir)
    processes.log_once(f"workdir {folder}")
    announce(config, plan, len(source), task)
    with stop_requested() as stop:
        run = TrainLoop(config, folder, plan, task, source)
        with run.closing():
            write_config(config, folder)  # not before the checkpoint there is known to be of this config
            provenance.record(folder, run.step)
            metrics = run.go(stop)
        if run.step == plan.total:
            return metrics | task.finish(run.state, workdir)
    processes.log_once(f"stopped at step {run.step} of {plan.total}, saved; the same command goes on from there")
    return {}


def make_folder(workdir: str) -> pathlib.Path:
    """The workdir, made if it is not there. Raises: ConfigError."""
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} cannot be a folder ({error.strerror}): give another") from error
    return folder


def write_config(config, folder: pathlib.Path) -> None:
    """Leaves the resolved config in the workdir."""
    if processes.is_main_process():
        write_json(folder / "config.json", json.loads(config.to_json_best_effort()))


def announce(config, plan: Schedule, clips: int, task) -> None:
    """Prints what a run is about to do."""
    among = "" if processes.is_single_process() else f" of {jax.process_count()} processes"
    processes.log_once(
        f"{clips} clips, batch {config.batch_size} (global), {plan.total} steps = {plan.total / plan.steps_per_epoch:.1f} epochs, "
        f"{jax.device_count()} {jax.default_backend()} device(s){among}",
        *task.announce(),
    )


class Clock:
    """Training time over restarts, and the share of it spent waiting for data."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self._last = seconds, time.perf_counter()
        self._waited = self._since = 0.0
        self._steps = 0

    def restart(self) -> None:
        """Leaves out what passed since the last step, which was not training."""
        self._last = time.perf_counter()

    def waited(self, seconds: float) -> None:
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


class TrainLoop:
    """One process's part in a run: state, step, and everything that has to be closed."""

    def __init__(self, config, folder: pathlib.Path, plan: Schedule, task, source):
        self.config, self.plan, self.task = config, plan, task
        self.identity = {"task": config.task, "batch_size": config.batch_size, "seed": config.seed, "clips": len(source)}
        self.identity |= {field: value for field, value in fields(config).items() if field.endswith("init_from")}
        self.checkpoints = Checkpoints(str(folder), config.checkpoint_keep)
        restored = self.checkpoints.restore(task.abstract_state(), self.identity)
        if restored is None:
            self.state, position = task.init(), {"step": 0, "seconds": 0.0, "replaced": 0}
        else:
            self.state, position = restored
            require(
                position["step"] <= plan.total,
                f"the checkpoint is of step {position['step']}, past config.total={config.total} ({plan.total} steps): "
                "raise config.total, or give another --workdir",
            )
            processes.log_once(f"resumed from the checkpoint of step {position['step']}")
        self.step, self.replaced, self.clock = position["step"], position["replaced"], Clock(position["seconds"])
        self.bad_files = BadFiles(folder, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
        self.writer = open_writer(str(folder), self.step)
        index, count = task.share
        self.loader = make_loader(config, source, start_step=self.step, process_index=index, process_count=count)
        every = 0.5 if sys.stderr.isatty() else 30.0  # seconds; in a log file each update is a line to read
        self.progress = tqdm(
            total=plan.total,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=every,
            disable=not processes.is_main_process(),
        )
        self.metrics: dict[str, float] = {}
        self._unread = None

    def go(self, stop) -> dict[str, float]:
        """Runs to the end or until `stop(step)`; returns the last logged metrics.

        The order is: evaluate, checkpoint, then draw the next batch. So the saved position in the data belongs to the saved step.
        """
        start = self.step
        self.progress.set_postfix_str("compiling")
        while True:
            stopping = stop(self.step)
            if self.step > start:
                if self.plan.due(self.plan.evaluate, self.step):
                    self.read_metrics()
                    self.writer.write(self.step, self.task.evaluate(self.state))
                    self.clock.restart()
                if stopping or self.plan.due(self.plan.checkpoint, self.step) or self.step == self.plan.total:
                    self.save()
            if stopping or self.step == self.plan.total:
                self.read_metrics()
                return self.metrics
            self.advance()

    def advance(self) -> None:
        """Draws a batch and does one step; reads the metrics of the step before, while this one runs."""
        begin = time.perf_counter()
        batch = next(self.loader)
        self.clock.waited(time.perf_counter() - begin)
        self.state, metrics = self.task.step(self.state, batch)
        failures = processes.gather_reports(batch["failures"], self.task.put)
        self.read_metrics()
        self.step += 1
        self._unread = (self.step, metrics, failures)

    def read_metrics(self) -> None:
        """Waits for the newest step, checks its clips and that its numbers are finite, and logs them where that is due."""
        if self._unread is None:
            return
        step, metrics, failures = self._unread
        self._unread = None
        self.replaced += self.bad_files.update(failures())
        metrics = to_floats(metrics)
        check_finite(step, metrics, self.checkpoints.latest)
        self.clock.tick()
        self.progress.update()
        if self.plan.due(self.plan.log, step):
            rates = self.clock.report(self.config.batch_size)
            self.metrics = metrics | {"data/replaced_clips": self.replaced} | rates
            self.writer.write(step, self.metrics)
            self.progress.set_postfix_str(summary(self.metrics), refresh=False)

    def save(self) -> None:
        """Starts a checkpoint of this step, whose numbers are known to be finite."""
        self.read_metrics()
        position = {"step": self.step, "seconds": self.clock.seconds, "replaced": self.replaced} | self.identity
        self.checkpoints.save(self.step, self.state, position)

    @contextlib.contextmanager
    def closing(self):
        """Ends the writers and workers when the block ends; a checkpoint that is being written is finished first.

        Not so after an error that may be another process's end: without that one no checkpoint becomes complete.
        """
        everyone = True
        try:
            yield
        except Exception as error:
            everyone = processes.is_single_process() or isinstance(error, SHARED_ERRORS)
            raise
        finally:
            self.progress.close()
            self.loader.close()
            self.writer.close()
            if everyone:
                self.checkpoints.close()


def summary(metrics: dict[str, float]) -> str:
    """The terms and the speed, for the progress bar."""
    terms = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in metrics.items() if name.startswith("loss")]
    return f"{' '.join(terms)} {metrics['time/clips_per_second']:.0f} clips/s"
