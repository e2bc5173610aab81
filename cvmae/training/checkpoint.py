"""Checkpoints: state, timer and the position in the data, written together, asynchronously and atomically by Orbax.

The position in the data is the step alone: the pipeline gives batch `step` of the same stream whatever the number of
workers and processes, so a checkpoint holds no iterator and restores on other counts of both.
"""

import logging
import os

import jax
import orbax.checkpoint as ocp
from etils import epath

from cvmae.config import ConfigError
from cvmae.training.optimizer import path_of
from cvmae.workdir import CHECKPOINTS

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno >= logging.ERROR)


def shapes(params) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array of a tree by its path."""
    return {path_of(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


class Checkpoints:
    """The checkpoints of a workdir.

    A checkpoint appears under its step once it is complete; one that a kill left half-written is never restored and is
    deleted at the next start.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int):
        """Opens `workdir`/checkpoints, where the newest `keep` are kept."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.folder = epath.Path(workdir).absolute() / CHECKPOINTS
        handlers = {"state": ocp.StandardCheckpointHandler(), "position": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    @property
    def latest(self) -> int | None:
        """The newest complete step; None before the first checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state, position: dict) -> None:
        """Starts writing; returns once the state is copied, so that the next step may overwrite it.

        Args:
          step: the step of the state.
          state: a tree of arrays.
          position: numbers and texts, the position in the data and the training time.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        self._manager.save(step, args=args, force=True)

    def restore(self, abstract_state, expected: dict | None = None):
        """Returns the newest (state, position) on the shardings of `abstract_state`, or None where there is no checkpoint.

        Raises:
          ConfigError: the checkpoint holds parameters of other shapes than the config describes, or its position is not one of
            the run that `expected` describes (see `check_position`).
        """
        if self.latest is None:
            return None
        position = self._read(position=ocp.args.JsonRestore())
        check_position(position, expected or {})
        self._check_shapes(abstract_state)
        try:
            return self._read(state=ocp.args.StandardRestore(abstract_state)), position
        except (ValueError, KeyError) as error:
            raise self._misfit(str(error).splitlines()[0]) from error

    def _read(self, **item):
        """Reads an item of the newest checkpoint."""
        (name,) = item
        return self._manager.restore(self.latest, args=ocp.args.Composite(**item))[name]

    def _check_shapes(self, abstract_state) -> None:
        # Before Orbax reads anything: where it fails half-way it leaves a page of warnings behind the message.
        there = shapes(self._manager.item_metadata(self.latest)["state"].tree["params"])
        wanted = shapes(abstract_state.params)
        for name in sorted(there.keys() | wanted.keys()):
            if there.get(name) != wanted.get(name):
                raise self._misfit(f"{name} is {there.get(name, 'absent')} there and {wanted.get(name, 'absent')} here")

    def _misfit(self, why: str) -> ConfigError:
        return ConfigError(
            f"checkpoint {self.folder / str(self.latest)} does not fit this config ({why}): "
            "give another --workdir, or the config that the checkpoint was made with"
        )

    def wait(self) -> None:
        """Blocks until the checkpoint that was started is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the checkpoint that is being written, and frees the writer's threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_position(position: dict, expected: dict) -> None:
    """Raises ConfigError where a run would not continue the one of the checkpoint: another task, batch, seed, data set or start."""
    for name, value in expected.items():
        if position.get(name, value) != value:
            raise ConfigError(
                f"the checkpoint was made with {name}={position[name]}, this run has {value}, so it cannot "
                f"resume: set {name} back, or give another --workdir"
            )
