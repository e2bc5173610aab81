"""A task whose step compiles at once, for tests of the loop: it counts, so that a state tells which steps it has seen."""

import jax
import jax.numpy as jnp
import optax

from cvmae.data.sources import Source, make_source
from cvmae.parallel.mesh import Placement, make_mesh, replicated
from cvmae.training import loop
from cvmae.training.trackers import opened
from cvmae.training.train_state import create_state
from cvmae.workdir import Workdir
from tests.tiny_configs import PLAIN, config

OPTIMIZER = optax.sgd(1.0)


class Counting:
    """Sums 1 + the mean of every batch's frame indices: another batch, or one twice, gives another sum."""

    evaluated_source: Source | None = None
    tested_source: Source | None = None

    def __init__(self, c):
        self.config, self.mesh = c, make_mesh(c.mesh)
        self.placement = Placement(self.mesh)
        self._step = jax.jit(self._add, out_shardings=replicated(self.mesh))

    def _new(self):
        return create_state({"sum": jnp.zeros(3)}, OPTIMIZER, 0.0)

    def initial_state(self):
        return jax.jit(self._new, out_shardings=replicated(self.mesh))()

    def abstract_state(self):
        layout = replicated(self.mesh)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=layout), jax.eval_shape(self._new))

    def _add(self, state, frames):
        total = state.params["sum"] + 1 + frames.mean()
        return state.replace(step=state.step + 1, params={"sum": total}), {"loss": total.sum()}

    def step(self, state, batch):
        return self._step(state, jnp.asarray(batch["frame_index"], jnp.float32))

    def evaluate(self, state):
        del state
        return {}


def train(path, **overrides) -> loop.Outcome:
    """Runs the loop over a tiny config in the workdir `path`, like `cvmae.tasks.run`; `a__b=v` sets a field."""
    c = config(**(PLAIN | {"eval_every": "0_steps"} | overrides))
    source = make_source(c.data, c.data.split)
    workdir = Workdir.create(path)
    with opened(c, workdir) as trackers:
        outcome = loop.run(Counting(c), source, loop.Schedule.of(c, len(source)), workdir, trackers)
        trackers.end = "finished" if outcome.finished else "stopped"
    return outcome
