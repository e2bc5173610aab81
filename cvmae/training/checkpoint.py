"""Checkpoints: state, timer and the position in the data, written together, asynchronously and atomically by Orbax.

The position in the data is the step alone: the pipeline gives batch `step` of the same stream whatever the number of
workers and processes, so a checkpoint holds no iterator and restores on other counts of both.
"""

import logging

import orbax.checkpoint as ocp
from etils import epath

from cvmae.config import ConfigError

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno >= logging.ERROR)


class Checkpoints:
    """The checkpoints of a workdir.

    A checkpoint appears under its step once it is complete; what a kill left half-written is never restored and is cleared
    away at the next start.
    """

    def __init__(self, workdir: str, keep: int):
        """Opens `workdir`/checkpoints, where the newest `keep` are kept."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.folder = epath.Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        return self._manager.latest_step()

    def save(self, step: int, state, position: dict) -> None:
        """Starts writing; returns once the state is copied, so that the next step may overwrite it.

        Args:
          step: the step of the state.
          state: a tree of arrays.
          position: numbers and texts that say where the data and the clock stand.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        self._manager.save(step, args=args, force=True)

    def restore(self, abstract_state):
        """The newest (state, position) on the shardings of `abstract_state`, or None where there is no checkpoint.

        Raises:
          ConfigError: the checkpoint holds parameters of other shapes than the config describes.
        """
        if self.latest is None:
            return None
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), position=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(self.latest, args=args)
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"checkpoint {self.folder / str(self.latest)} does not fit this config ({str(error).splitlines()[0]}): "
                "give another --workdir, or the config that the checkpoint was made with"
            ) from error
        return restored["state"], restored["position"]

    def wait(self) -> None:
        """Blocks until what was started is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the writer's threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_position(position: dict, expected: dict) -> None:
    """Raises ConfigError where the data would not go on as the checkpoint left it: another batch, seed or data set."""
    for name, value in expected.items():
        if position.get(name, value) != value:
            raise ConfigError(
                f"the checkpoint was made with {name}={position[name]}, this run has {value}, so the order of the data "
                f"could not go on: set {name} back, or give another --workdir"
            )
