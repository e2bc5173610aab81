"""The tasks that train: what the loop calls of each, and the way from a config to a report that all of them share."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.config import steps
from cvmae.data.bad_files import BadFiles
from cvmae.data.mixture import Mixture
from cvmae.data.pipeline import clip_spec
from cvmae.data.sources import Source, open_split
from cvmae.files import storage_errors
from cvmae.parallel import processes
from cvmae.parallel.mesh import Placement, batch_sharding, make_mesh, make_rules, replicated
from cvmae.parallel.state_sharding import StateSharding
from cvmae.tasks.mixtures import check_shares
from cvmae.tasks.notes import check_clips, source_notes, training_notes
from cvmae.tasks.results import Results, draw, write, write_page
from cvmae.tasks.validate import is_contrastive, validate
from cvmae.tasks.workers import resolve_workers
from cvmae.training import loop
from cvmae.training.optimizer import path_of
from cvmae.training.preemption import ending_on_sigterm
from cvmae.training.run_schedule import Schedule
from cvmae.training.trackers import Trackers, opened
from cvmae.training.train_state import TrainState, replace_params
from cvmae.training.workdir_lock import check_held, locked
from cvmae.workdir import BAD_EVAL_FILES, CONFIG, Workdir
from cvmae.workdir.strangers import set_strangers_aside


class Task(abc.ABC):
    """A task that trains. It computes; `Task.run` writes and draws.

    Subclasses define the abstract methods. `init_state` and `train_step` are compiled over the mesh, everything else runs on
    the host.

    Attributes:
      BATCH_KEYS: the entries of the loader's batch that reach the devices.
      PREFIX: of the numbers that `run` returns of the report.
      trains: True, beside `frozen.FrozenTask`.
      custom: the sources of data.source=custom by split.
      STACKED: leading axes of the optimizer's state that a step takes one by one, and that are not sharded.

    Raises:
      ConfigError or ValueError: a config field does not fit.
    """

    BATCH_KEYS: tuple[str, ...]
    PREFIX: ClassVar[str]
    trains: ClassVar[bool] = True
    STACKED: ClassVar[int] = 0
    custom: Mapping[str, Source] | None = None
    evaluated_source: Source | None = None  # the clips of evaluations during training, where `check_data` opens them
    tested_source: Source | None = None  # those of the test at the end, likewise
    bad_eval_files: BadFiles | None = None  # of evaluations, in the workdir

    def __init__(self, config, mesh, schedule: Schedule, source: Source):
        """Builds the model and the optimizer.

        Args:
          config: checked by `validate`.
          mesh: all devices of the run, see `parallel.mesh.make_mesh`.
          schedule: the length of the run.
          source: the clips of config.data.split.
        """
        self.config, self.mesh, self.schedule, self.source = config, mesh, schedule, source
        self.key = jax.random.key(config.seed)
        self.rules = make_rules(mesh, config.sharding)
        self.placement = Placement(mesh)
        # Configs of earlier versions lack the field.
        self.state_sharding = StateSharding(self.rules, config.get("optimizer_sharding", "auto"), self.STACKED)

    @classmethod
    def run(cls, config, path: str, custom: Mapping[str, Source] | None = None, report_page: bool = False) -> dict[str, float]:
        """Trains in the workdir `path` to the end, then writes and draws the results; called again it resumes.

        Args:
          config: of the run.
          path: the workdir.
          custom: see `open_split`.
          report_page: see `cvmae.tasks.run`.

        Returns:
          The last logged metrics and the numbers of the report as `PREFIX/NAME`. Empty if a signal asked to stop: the state is
          saved then.

        Raises: see `cvmae.tasks.run`.
        """
        validate(config)
        source = open_split(config.data, "split", custom)
        config, lines = resolve_workers(config, source)
        check_clips(config, len(source))
        if isinstance(source, Mixture) and is_contrastive(config):
            check_shares(source, config.batch_size)
        schedule = Schedule.of(config, len(source))
        task = cls(config, make_mesh(config.mesh), schedule, source)
        task.custom = custom
        task.check_data()
        workdir = Workdir.create(path)
        with storage_errors("a file of the run", workdir), locked(workdir):
            set_strangers_aside(workdir)
            with opened(config, workdir) as trackers:
                processes.log_once(*lines)
                return task._run(workdir, trackers, report_page)

    def _run(self, workdir: Workdir, trackers: Trackers, report_page: bool) -> dict[str, float]:
        """Trains, writes and draws, see `run`."""
        config, schedule = self.config, self.schedule
        processes.log_once(
            f"workdir {workdir}",
            loop.describe(config, schedule, len(self.source)),
            *self.describe(),
            *([] if (workdir / CONFIG).exists() else self.first_notes()),
            *training_notes(config, schedule, jax.default_backend()),
            *source_notes(self.source),
            *self.row_notes(),
        )
        self.open_lists(workdir)
        state, metrics, finished = loop.run(self, self.source, schedule, workdir, trackers)
        if not finished:
            trackers.end = "stopped"
            return {}
        with ending_on_sigterm():
            results = self.results(state, workdir)
            if results.report is not None:
                results = dataclasses.replace(results, report=dataclasses.replace(results.report, step=int(state.step)))
            check_held(workdir, look=True)
            write(results, workdir)
            draw(results, workdir)
            write_page(report_page, workdir)
            trackers.report(schedule.total, results.report)
            trackers.end = "finished"
        numbers = {} if results.report is None else results.report.metrics
        return metrics | {f"{self.PREFIX}/{name}": value for name, value in numbers.items()}

    @abc.abstractmethod
    def init_state(self, key) -> TrainState:
        """Returns a new state from a PRNG key; compiled."""

    @abc.abstractmethod
    def train_step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns the updated state and float32 scalar metrics of a global batch; compiled."""

    @abc.abstractmethod
    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Returns metrics on the evaluation split, as `eval/NAME`."""

    @abc.abstractmethod
    def results(self, state: TrainState, workdir: Workdir) -> Results:
        """Computes what is reported at the end; unreadable test files are listed in `workdir`."""

    @abc.abstractmethod
    def describe(self) -> list[str]:
        """Returns lines for the start of a run: how the task is going to learn."""

    def first_notes(self) -> list[str]:
        """Returns notes for the first start of a run, which one that resumes does not repeat."""
        return []

    @abc.abstractmethod
    def check_data(self) -> None:
        """Opens the splits that are read later, so that what is missing is known before the first step. Raises: ConfigError."""

    def open_lists(self, workdir: Workdir) -> None:
        """Opens the list of unreadable files of the evaluation split."""
        source, data = self.evaluated_source, self.config.data
        if source is not None:
            announced, writes = f"config.data.eval_split={data.eval_split!r}", processes.is_main_process()
            self.bad_eval_files = BadFiles(workdir, len(source), data.max_bad_fraction, BAD_EVAL_FILES, writes, announced)

    @abc.abstractmethod
    def row_notes(self) -> list[str]:
        """Returns notes about the rows of the splits of training and evaluation together. Raises: ConfigError."""

    def load_pretrained(self) -> dict | None:
        """Returns parameters that replace initialized ones, a part of the tree; None for none. Raises: ConfigError."""
        return None

    def resolve(self, duration: str, field: str) -> int:
        """Returns a duration of the config in steps. Raises: ConfigError."""
        return steps(duration, field, steps_per_epoch=self.schedule.steps_per_epoch, total=self.schedule.total)

    def open_split(self, field: str) -> Source:
        """Opens the split that `config.data.FIELD` names. Raises: ConfigError."""
        if self.config.data[field] == self.config.data.split:
            return self.source
        return open_split(self.config.data, field, self.custom)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """The sharding of each array of the state: of parameters by config.sharding, of moments and averages by `StateSharding`."""
        of_parts = {"opt_state": self.state_sharding.of_leaf, "ema": self.state_sharding.of_leaf}

        def sharding(path, leaf):
            return of_parts.get(path[0].name, self.rules.of_parameter)(path_of(path), leaf.shape)

        return jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(self.init_state, self.key))

    def is_frozen(self, path: str) -> bool:
        """Returns True if the parameter of this path (see `path_of`) never changes, and so has no moments."""
        del path
        return False

    def shard_update(self, tree):
        """Returns gradients or parameters sharded as their moments, in a compiled step; see `apply_gradients`."""

        def constrain(keys, leaf):
            path = path_of(keys)
            return leaf if self.is_frozen(path) else self.state_sharding.constrain(path, leaf)

        return jax.tree_util.tree_map_with_path(constrain, tree)

    def evaluated(self, state: TrainState):
        """Returns the parameters that evaluation uses, sharded as parameters: a sharded moving average is gathered once, here."""
        if state.ema is None or self.state_shardings.ema == self.state_shardings.params:
            return state.evaluated
        return self._copy_as_parameters(state.ema)

    @functools.cached_property
    def _copy_as_parameters(self):
        return jax.jit(_copy, out_shardings=self.state_shardings.params)

    @functools.cached_property
    def _step(self):
        layout = self.state_shardings
        shardings = {
            "in_shardings": (layout, batch_sharding(self.mesh)),
            "out_shardings": (layout, replicated(self.mesh)),
        }
        return jax.jit(self.train_step, donate_argnums=0, **shardings)

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, on the mesh, with pre-trained weights in it; the same for every mesh."""
        key = jax.random.fold_in(self.key, 0)
        pretrained = self.load_pretrained()
        state = jax.jit(self.init_state, out_shardings=self.state_shardings)(key)
        if pretrained is None:
            return state
        # The optimizer starts from zeros whatever the parameters are.
        params = replace_params(state.params, pretrained)
        frozen = None if state.frozen is None else replace_params(state.frozen, pretrained)
        ema = None if state.ema is None else jax.jit(_copy, out_shardings=self.state_shardings.ema)(params)
        return state.replace(params=params, ema=ema, frozen=frozen)

    def initial_params(self):
        """Returns the parameters of `initial_state`, without the memory of an optimizer's state."""
        pretrained = self.load_pretrained()
        init = jax.jit(lambda key: self.init_state(key).params, out_shardings=self.state_shardings.params)
        params = init(jax.random.fold_in(self.key, 0))
        return params if pretrained is None else replace_params(params, pretrained)

    def abstract_state(self) -> TrainState:
        """Returns shapes, dtypes and shardings of the state, to restore a checkpoint onto."""
        shapes = jax.eval_shape(self.init_state, self.key)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, self.state_shardings)

    def abstract_batch(self, clips: int, layout=None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the BATCH_KEYS of a batch of `clips` clips."""
        data = self.config.data
        known = {
            "video": ((clip_spec(self.config, for_views=True).length, *data.frame_size, 3), jnp.uint8),
            "frame_index": ((self.config.get("image_branch", {}).get("frames", 0),), jnp.int32),
            "label": ((), jnp.int32),
            "source": ((), jnp.int32),
        }
        shapes = {name: known[name] for name in self.BATCH_KEYS}
        return {name: jax.ShapeDtypeStruct((clips, *shape), dtype, sharding=layout) for name, (shape, dtype) in shapes.items()}

    def blank_batch(self, clips: int) -> dict[str, jax.Array]:
        """Returns zeros of the shapes of `abstract_batch`."""
        return {name: jnp.zeros(a.shape, a.dtype) for name, a in self.abstract_batch(clips).items()}

    def trace(self):
        """Traces the training step for this mesh: `.jaxpr`, and `.lower().compile()` for its cost and text."""
        batch = self.abstract_batch(self.config.batch_size, batch_sharding(self.mesh))
        return self._step.trace(self.abstract_state(), batch)

    def lower(self):
        """Lowers the training step for this mesh."""
        return self.trace().lower()

    def step(self, state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, Any]]:
        """Runs one update: (state, metrics). `state` is donated; `batch` is the loader's, on the host."""
        return self._step(state, self.placement.put({name: batch[name] for name in self.BATCH_KEYS}))


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)
