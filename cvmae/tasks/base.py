"""What every task that trains is: how its state comes to be, and what a step does. The loop knows no more of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.config import steps
from cvmae.data.sources import Source, make_source
from cvmae.parallel import processes
from cvmae.parallel.logical_axes import use_rules
from cvmae.parallel.mesh import batch_sharding, make_rules, put_batch, replicated
from cvmae.tasks.validate import config_errors
from cvmae.training.optimizer import path_of
from cvmae.training.train_state import TrainState


class Task:
    """One task: `init`, `abstract_state`, `step`, `evaluate`, `finish`.

    A task defines `init_state(key) -> TrainState` and `train_step(state, batch) -> (state, metrics)`, both of which are compiled,
    and what it does outside of them. `BATCH_KEYS` are the entries of the loader's batch that reach the devices.

    Raises:
      ConfigError or ValueError: a config field does not fit.
    """

    BATCH_KEYS: tuple[str, ...]

    def __init__(self, config, mesh, total_steps: int, steps_per_epoch: float):
        self.config, self.mesh = config, mesh
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.key = jax.random.key(config.seed)
        self.rules = make_rules(mesh, config.sharding)

    @functools.cached_property
    def share(self) -> processes.ProcessShard:
        """Of every batch, what this process reads. Raises: ValueError, see `multihost.part_of`."""
        return processes.shard_of_process(batch_sharding(self.mesh))

    def resolve(self, duration: str, field: str) -> int:
        """A duration of the config in steps."""
        return steps(duration, field, steps_per_epoch=self.steps_per_epoch, total=self.total_steps)

    def open(self) -> None:
        """Opens what will be read later, so that what is missing is known before the first step. Raises: ConfigError."""
        raise NotImplementedError

    def announce(self) -> list[str]:
        """Lines that say how the task is going to learn."""
        raise NotImplementedError

    def open_split(self, field: str) -> Source:
        """The source of the split that `config.data.FIELD` names. Raises: ConfigError."""
        with config_errors(f"data.{field}"):
            return make_source(self.config.data, self.config.data[field])

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """Where each array of the state lies on the mesh: parameters, and their moments and averages with them."""

        def place(path, leaf):
            return self.rules.of_parameter(path_of(path), leaf.shape)

        return jax.tree_util.tree_map_with_path(place, jax.eval_shape(self.init_state, self.key))

    @functools.cached_property
    def _step(self):
        rows, whole = batch_sharding(self.mesh), replicated(self.mesh)
        layout = self.state_shardings

        def step(state, batch):
            with use_rules(self.rules):
                return self.train_step(state, batch)

        return jax.jit(step, donate_argnums=0, in_shardings=(layout, rows), out_shardings=(layout, whole))

    def init(self) -> TrainState:
        """The state before the first step, made on the mesh; the same for every mesh."""
        key = jax.random.fold_in(self.key, 0)
        pretrained = self.load_pretrained()
        state = jax.jit(self.init_state, out_shardings=self.state_shardings)(key)
        if pretrained is None:
            return state
        # The optimizer starts from zeros whatever the parameters are.
        params = _replace(state.params, pretrained)
        return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))

    def load_pretrained(self) -> dict | None:
        """Parameters that replace those of the initialization, a part of the tree; None for none. Raises: ConfigError."""
        return None

    def abstract_state(self):
        """Shapes, dtypes and shardings of the state, to restore a checkpoint onto."""
        shapes = jax.eval_shape(self.init_state, self.key)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, self.state_shardings)

    def abstract_batch(self, clips: int, layout=None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of what of a batch of so many clips reaches the devices: BATCH_KEYS."""
        data = self.config.data
        known = {
            "video": ((data.num_frames, *data.frame_size, 3), jnp.uint8),
            "frame_index": ((self.config.get("image_branch", {}).get("frames", 0),), jnp.int32),
            "label": ((), jnp.int32),
        }
        shapes = {name: known[name] for name in self.BATCH_KEYS}
        return {name: jax.ShapeDtypeStruct((clips, *shape), dtype, sharding=layout) for name, (shape, dtype) in shapes.items()}

    def blank_batch(self, clips: int) -> dict[str, jax.Array]:
        """Zeros of the shapes of `abstract_batch`."""
        return {name: jnp.zeros(a.shape, a.dtype) for name, a in self.abstract_batch(clips).items()}

    def trace(self):
        """The training step, traced for this mesh: `.jaxpr`, and `.lower().compile()` for its cost and text."""
        batch = self.abstract_batch(self.config.batch_size, batch_sharding(self.mesh))
        return self._step.trace(self.abstract_state(), batch)

    def lower(self):
        """The training step, lowered for this mesh."""
        return self.trace().lower()

    def step(self, state: TrainState, batch: dict[str, np.ndarray]):
        """One update: (state, metrics). `state` is donated; `batch` is the loader's, on the host."""
        return self._step(state, self.put({name: batch[name] for name in self.BATCH_KEYS}))

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Arrays over the mesh, of this process's rows of a batch."""
        return put_batch(batch, self.mesh)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Metrics on the evaluation split, as `eval/NAME`."""
        raise NotImplementedError

    def finish(self, state: TrainState, workdir: str) -> dict[str, float]:
        """Writes what is written once, at the end; returns what is worth returning of it."""
        raise NotImplementedError


def _replace(tree: dict, part: dict) -> dict:
    """The tree with the leaves of `part`, arrays in a tree with some of its keys, each where the leaf that it replaces lies."""
    new = {
        key: _replace(tree[key], value) if isinstance(value, dict) else jax.device_put(value, tree[key].sharding)
        for key, value in part.items()
    }
    return tree | new
