"""Finds a checkpoint of a workdir of this package to read, and the config of its run."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping

from cvmae.interop import remote
from cvmae.storage.client import check_scheme, raise_of_store
from cvmae.storage.path import AnyPath, as_path
from cvmae.workdir import CHECKPOINTS, CONFIG
from cvmae.workdir.saved_steps import find_damage, is_step, saved_steps


class WorkdirError(ValueError):
    """A workdir that cannot be read; the message is one line that names the folder and what to give."""


class DamagedWorkdirError(WorkdirError):
    """A checkpoint whose files are damaged; the message names it and what to give.

    Attributes:
      why: the damage.
    """

    def __init__(self, checkpoint: AnyPath, why: str):
        super().__init__(f"checkpoint {checkpoint} is damaged ({why}): give another step")
        self.why = why


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A complete checkpoint and the config of its run.

    Attributes:
      folder: the workdir, which may lie in a bucket.
      config: its config.json.
      step: the checkpoint's.
      older: complete steps before it, the newest first, to take where its values are damaged; none where a step was named.
      damaged: why newer checkpoints are damaged, by step.
    """

    folder: AnyPath
    config: dict
    step: int
    older: tuple[int, ...] = ()
    damaged: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Newer checkpoints that are damaged, one a line."""
        folder = self.folder / CHECKPOINTS
        return tuple(
            f"checkpoint {folder / str(step)} is damaged ({why}): an older step is taken" for step, why in self.damaged.items()
        )

    @property
    def checkpoint(self) -> AnyPath:
        return self.folder / CHECKPOINTS / str(self.step)

    @functools.cached_property
    def local(self) -> pathlib.Path:
        """The checkpoint on this machine: itself, or the copy in the user's cache folder. Raises: OSError, it cannot be copied."""
        checkpoint = self.checkpoint
        return checkpoint if isinstance(checkpoint, pathlib.Path) else remote.fetch_checkpoint(checkpoint)


def split_path(path) -> tuple[AnyPath, int | None]:
    """Returns the workdir of WORKDIR, WORKDIR/checkpoints or WORKDIR/checkpoints/STEP, and the step. Raises: SetupError, the scheme."""
    check_scheme(str(path))
    path = as_path(path).absolute()
    if is_step(path.name) and path.parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return (path.parent if path.name == CHECKPOINTS else path), None


def is_workdir(path) -> bool:
    """Returns True if `path` is, or lies in, a folder that holds checkpoints of this package."""
    return (split_path(path)[0] / CHECKPOINTS).is_dir()


def read_workdir(path, step: int | None = None) -> SavedRun:
    """Reads the config of a workdir, and finds the checkpoint to read.

    Args:
      path: WORKDIR, or WORKDIR/checkpoints/STEP.
      step: None takes the path's, or the newest complete one, as a run that resumes does.

    Raises:
      WorkdirError: there is no config, no complete checkpoint, or none of that step.
    """
    folder, in_path = split_path(path)
    step = in_path if step is None else step
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise_of_store(error)
        why = f"there is no folder {folder}"
        if folder.is_dir():
            why = f"{folder} is no workdir, it holds no readable config.json ({error.strerror})"
        raise WorkdirError(f"{why}: give a folder that was the --workdir of a run") from error
    except (ValueError, RecursionError) as error:
        raise_of_store(error)
        raise WorkdirError(f"{file} is not JSON ({error}): give a folder that was the --workdir of a run") from error
    if not isinstance(config, dict):
        raise WorkdirError(f"{file} is not the config of a run: give a folder that was the --workdir of a run")
    checkpoints = folder / CHECKPOINTS
    try:
        damage = {number: find_damage(checkpoints / str(number)) for number in reversed(saved_steps(checkpoints))}
    except OSError as error:
        raise_of_store(error)
        raise WorkdirError(f"{checkpoints} cannot be read ({error.strerror}): give the command again when it can") from error
    steps = [number for number, why in damage.items() if not why]
    why = f" ({'; '.join(f'{number}: {text}' for number, text in damage.items())})" if damage else ""
    if not steps:
        raise WorkdirError(f"{checkpoints} holds no complete checkpoint{why}: let the run save one, or give another workdir")
    if step is None:
        newer = {number: text for number, text in damage.items() if text and number > steps[0]}
        return SavedRun(folder, config, steps[0], tuple(steps[1:]), newer)
    if step not in steps:
        why = f" ({damage[step]})" if damage.get(step) else ""
        known = ", ".join(map(str, sorted(steps)))
        raise WorkdirError(f"{folder} has no complete checkpoint of step {step}{why}: take one of {known}")
    return SavedRun(folder, config, step)
