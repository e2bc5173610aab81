"""Checkpoints: state, timer and the position in the data, written together, asynchronously and atomically by Orbax.

The position in the data is the step alone: the pipeline gives batch `step` of the same stream whatever the number of
workers and processes, so a checkpoint holds no iterator and restores on other counts of both.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from cvmae.config import ConfigError, require
from cvmae.files import identify, lost_link, set_aside, storage_errors
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath
from cvmae.training import identity
from cvmae.training.optimizer import path_of
from cvmae.training.staged_checkpoints import StagedManager, is_staged, local_copy
from cvmae.workdir import CHECKPOINTS, Workdir, checksums, orbax_output
from cvmae.workdir.saved_steps import (
    PERMANENT,
    STATE,
    Leftovers,
    find_damage,
    find_leftovers,
    is_permanent,
    read_position,
    saved_steps,
    try_reading,
)


def shapes(params) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array of a tree by its path."""
    return {path_of(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@dataclasses.dataclass
class _Listed(checkpoint_managers.PreservationPolicy):
    """Preserves the checkpoints of the steps of a set, which grows as they are saved."""

    steps: set[int]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns a truth value for each of the checkpoints."""
        del context
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


class DamagedError(Exception):
    """A checkpoint that cannot be read; the message says why."""


class MisfitError(Exception):
    """A checkpoint that holds other arrays than the config describes; the message names one."""


class Checkpoints:
    """The checkpoints of a workdir.

    A checkpoint appears under its step once it is complete; one that a kill left half-written is never restored and is
    deleted at the next start. One that was saved as permanent says so in its position and is never deleted, whatever later runs
    of the workdir ask for.
    """

    def __init__(self, workdir: str | os.PathLike | RemotePath, keep: int):
        """Opens `workdir`/checkpoints, where the newest `keep` are kept."""
        orbax_output.mute()
        self._keep = keep
        self._path: AnyPath = (as_path(workdir) / CHECKPOINTS).absolute()
        self._there: tuple[int, int] | None = None  # the folder that Orbax writes to
        require(
            not is_staged(self._path) or processes.is_single_process(),
            f"--workdir={workdir}: checkpoints of several processes cannot be written to s3://, for which Orbax has no driver: give a "
            "gs:// path or a folder that all processes share",
        )

    @property
    def folder(self) -> str:
        """The folder of the checkpoints, for messages."""
        return str(self._path)

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager | StagedManager:
        # Made after damaged checkpoints are set aside: it lists the steps once.
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(self._keep), _Listed(self._permanent)])
        # Orbax looks for them in a thread of its own, which fails if the folder is deleted meanwhile: only where there are some.
        has_unfinished = processes.allgather_json(bool(self._leftovers.unfinished))[0]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=has_unfinished, lightweight_initialize=True
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "position": ocp.JsonCheckpointHandler(),
            "checksums": ocp.JsonCheckpointHandler(),
        }
        with storage_errors("the folder of the checkpoints", self.folder):
            if is_staged(self._path):
                return StagedManager(self._path, self._keep, self._permanent, handlers)
            manager = ocp.CheckpointManager(epath.Path(self.folder), options=options, item_handlers=handlers)
            self._there = identify(self._path)
            return manager

    @functools.cached_property
    def _leftovers(self) -> Leftovers:
        """Parts of the folder that a run does not resume from, as they were at the start."""
        return find_leftovers(self._path)

    @functools.cached_property
    def _permanent(self) -> set[int]:
        """The permanent steps; `save` adds to them. The main process looks, as it is the one that deletes."""
        steps = saved_steps(self._path)
        permanent = [step for step in steps if is_permanent(self._path / str(step))] if processes.is_main_process() else []
        return set(processes.allgather_json(permanent)[0])

    @property
    def latest(self) -> int | None:
        """The newest complete step; None before the first checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state, position: dict, *, permanent: bool = False) -> None:
        """Starts writing; returns once the state is copied, so that the next step may overwrite it.

        Args:
          step: the step of the state.
          state: a tree of arrays.
          position: numbers and texts, the position in the data and the training time.
          permanent: True keeps this checkpoint beside the newest ones for ever.
        """
        position = position | {checksums.ITEM: True} | ({PERMANENT: True} if permanent else {})
        items = {
            "state": ocp.args.StandardSave(state),
            "position": ocp.args.JsonSave(position),
            "checksums": ocp.args.JsonSave(checksums.describe(state, position)),
        }
        manager = self._manager
        self._permanent.update({step} if permanent else ())
        with self._storage_errors():
            # Orbax would create the folders again, on another disk where a mount is lost.
            if isinstance(self._path, pathlib.Path) and processes.is_main_process() and not self._path.is_dir():
                os.stat(self._path.parent)
                processes.log_once(
                    f"{self.folder} is gone, deleted during the run: created again for the checkpoint of step {step}"
                )
            # An error of writing the one before comes out here.
            manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._there = identify(self._path)

    def restore(self, abstract_state, expected: dict | None = None, config=None):
        """Returns the newest whole (state, position) on the shardings of `abstract_state`, or None where there is no checkpoint.

        Newer checkpoints that are damaged are set aside, as `STEP.damaged`, and named; nothing is deleted.

        Args:
          abstract_state: shapes, dtypes and shardings.
          expected: the run's identity, which its position must have, see `identity.check`.
          config: of the run: whether its data may be others, and for messages the fields that changed; None has neither.

        Raises:
          ConfigError: the checkpoint holds parameters of other shapes than the config describes, or is of another run; or all
            checkpoints are damaged.
        """
        changed = functools.partial(identity.read_changed_fields, Workdir(self._path.parent), config)
        allow = config is not None and bool(config.data.get("allow_change", False))  # configs of earlier versions lack it
        check = functools.partial(identity.check, expected=expected or {}, allow_data_change=allow, changed_config=changed)
        damaged: dict[int, str] = {}
        misfits: dict[int, str] = {}
        self._name_leftovers()
        for step in reversed(processes.allgather_json(saved_steps(self._path))[0]):
            try:
                restored = self._restore_step(step, abstract_state, check)
            except DamagedError as error:
                damaged[step] = str(error)
            except MisfitError as error:
                misfits[step] = str(error)
            else:
                # All checkpoints of a run hold the same arrays: where an older one fits, a newer one that does not is damaged.
                self._set_aside(damaged | misfits, step)
                return restored
        for step, why in misfits.items():
            raise ConfigError(
                f"checkpoint {self._path / str(step)} does not fit this config ({why}): {identity.give_back(changed())}"
            )
        if damaged:
            reasons = "; ".join(f"{step} ({why})" for step, why in damaged.items())
            raise ConfigError(
                f"{self.folder} holds no whole checkpoint: {reasons}. Bring back what is missing; or move that folder away to "
                "begin again; or give another --workdir"
            )
        return None

    def _restore_step(self, step: int, abstract_state, check: Callable[[dict], None]) -> tuple[Any, dict]:
        """Reads a checkpoint. Raises: DamagedError, MisfitError, ConfigError, each in all processes alike."""
        path = self._path / str(step)
        with local_copy(path) if is_staged(path) else contextlib.nullcontext(path) as path:
            return self._read_step(path, abstract_state, check)

    def _read_step(self, path: AnyPath, abstract_state, check: Callable[[dict], None]) -> tuple[Any, dict]:
        # One process looks, and all hear of it.
        _agree(find_damage(path) if processes.is_main_process() else "")
        position = read_position(path)
        sums, why = checksums.read(path, position)
        _agree(why)
        check(position)
        folder = epath.Path(str(path)) / STATE
        there, why = try_reading(lambda: ocp.StandardCheckpointHandler().metadata(folder).tree, path, STATE)
        _agree(why)
        _check_shapes(there, abstract_state)
        restore = ocp.args.StandardRestore(abstract_state)
        state, why = try_reading(lambda: ocp.StandardCheckpointHandler().restore(folder, args=restore), path, STATE)
        _agree(why)
        _agree(checksums.find_difference(state, sums))
        return state, position

    def _name_leftovers(self) -> None:
        """Sets files aside that have the name of a step, which Orbax would delete, and names folders that are no steps.

        Raises:
          ConfigError: a step is a link that leads nowhere.
        """
        lines, refusal = [], ""
        if processes.is_main_process():
            left = self._leftovers
            refusal = next(filter(None, (lost_link(self._path / name) for name in left.files)), "")
            for name in () if refusal else left.files:
                with storage_errors("the name of a file among the checkpoints", self.folder):
                    new = set_aside(self._path / name)
                lines.append(f"{self._path / name} is a file, no checkpoint: set aside as {new.name}")
            steps = saved_steps(self._path)
            lines += [f"{self._path / name} is not read: a step is named {step}" for name, step in left.misnamed.items() if steps]
        if refusal := processes.allgather_json(refusal)[0]:
            raise ConfigError(refusal)
        processes.log_once(*lines)

    def _set_aside(self, damaged: dict[int, str], step: int) -> None:
        """Renames damaged checkpoints, and says so; `step` is that of the one to go on from."""
        for number, why in damaged.items():
            with storage_errors("the name of a damaged checkpoint", self.folder):
                new = set_aside(self._path / str(number)) if processes.is_main_process() else None
            processes.log_once(
                f"checkpoint {self._path / str(number)} is damaged ({why}): set aside as {new and new.name}, resuming from step {step}"
            )
        processes.barrier("damaged checkpoints are set aside")

    def wait(self) -> None:
        """Blocks until the checkpoint that was started is complete. Raises: StorageError, it cannot be written."""
        with self._storage_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the checkpoint that is being written, and frees the writer's threads. Raises: StorageError."""
        if "_manager" not in vars(self):
            return
        with self._storage_errors():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    def _storage_errors(self):
        """Turns errors of the storage in the block into StorageErrors that name the last good checkpoint."""
        steps = saved_steps(self._path)
        stays = f"the checkpoint of step {steps[-1]} stays" if steps else "no checkpoint was written yet"
        return storage_errors("a checkpoint", self._path, stays, self._there, only_writes=True)


def _agree(why: str) -> None:
    """Raises DamagedError in all processes where one of them has a reason."""
    reasons = [reason for reason in processes.allgather_json(why) if reason]
    if reasons:
        raise DamagedError(reasons[0])


def _check_shapes(there, abstract_state) -> None:
    """Raises MisfitError where the arrays are not those of the state, before Orbax reads values and fails half-way."""
    try:
        stored = shapes(there["params"]), shapes(there)  # parameters first: their names say most
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError("it holds no parameters") from error
    for arrays, expected in zip(stored, (shapes(abstract_state.params), shapes(abstract_state)), strict=True):
        for name in sorted(arrays.keys() | expected.keys()):
            if arrays.get(name) != expected.get(name):
                raise MisfitError(f"{name} is {arrays.get(name, 'absent')} there and {expected.get(name, 'absent')} here")
