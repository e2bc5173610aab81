"""Steps of a workdir's checkpoints: which are there, which are damaged, and what else lies beside them.

Runs that resume and `cvmae.interop` share these rules. Orbax writes a checkpoint under a temporary name and renames it to its
step once it is complete, so a damaged one comes of the storage or of somebody's hand, not of a run that was killed.
"""

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cvmae.config import ConfigError
from cvmae.files import storage_error_number
from cvmae.storage.client import raise_of_store
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath
from cvmae.workdir import orbax_output

STATE, POSITION = "state", "position"
PERMANENT = "permanent"  # the entry of the position of a checkpoint that is never deleted
_POSITION_FILE = f"{POSITION}/metadata"
_ARRAYS_FILE = f"{STATE}/_METADATA"
_INDEX_FILE = f"{STATE}/manifest.ocdbt"
COMMITTED = "commit_success.txt"  # of a complete checkpoint in a bucket, as Orbax calls it
_TEMPORARY = re.compile(r"([0-9]{1,18})\.orbax-checkpoint-tmp.*")  # Orbax's name of a checkpoint that is not complete
_OBJECT = ". See full TensorStore details: <"  # behind which Orbax has the representation of a function
# Errors of a disk or a connection that may be over soon, and say nothing about the files.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EHOSTDOWN}


def is_step(name: str) -> bool:
    """Returns True if a folder's name is a step as Orbax writes it: ASCII digits without leading zeros."""
    return name.isascii() and name.isdigit() and len(name) < 19 and str(int(name)) == name


def saved_steps(checkpoints: str | os.PathLike | RemotePath) -> list[int]:
    """Returns the steps of all checkpoints in a folder in ascending order, damaged ones included; none if it is missing.

    In a bucket, where nothing is renamed, those count that have the marker which is written last.
    """
    folder = as_path(checkpoints)
    if isinstance(folder, RemotePath):
        steps = (name for name, status in folder.listing().items() if status is None and is_step(name))
        return sorted(int(name) for name in steps if (folder / name / COMMITTED).is_file())
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if is_step(path.name) and path.is_dir())


@dataclasses.dataclass(frozen=True)
class Leftovers:
    """The entries of a folder of checkpoints that are no steps.

    Attributes:
      files: files that have the name of a step, which is a folder.
      unfinished: folders of checkpoints that a run began to write and did not finish, {name: step}.
      misnamed: folders of a step whose names Orbax would write otherwise, such as 08, {name: step}.
      damaged: checkpoints that were set aside.
    """

    files: tuple[str, ...] = ()
    unfinished: Mapping[str, int] = dataclasses.field(default_factory=dict)
    misnamed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    damaged: tuple[str, ...] = ()


def find_leftovers(checkpoints: str | os.PathLike | RemotePath) -> Leftovers:
    """Looks at a folder of checkpoints, which may be missing, for what a run does not resume from."""
    folder = as_path(checkpoints)
    if isinstance(folder, RemotePath):
        is_folder = {name: status is None for name, status in folder.listing().items()}
    else:
        is_folder = {path.name: path.is_dir() for path in sorted(folder.iterdir())} if folder.is_dir() else {}
    folders = [name for name, value in is_folder.items() if value]
    unfinished = {name: int(match[1]) for name in folders if (match := _TEMPORARY.fullmatch(name))}
    if isinstance(folder, RemotePath):  # nothing is renamed there: the marker of a complete one is missing
        unfinished |= {name: int(name) for name in folders if is_step(name) and not (folder / name / COMMITTED).is_file()}
    return Leftovers(
        tuple(name for name, value in is_folder.items() if is_step(name) and not value),
        unfinished,
        {name: int(name) for name in folders if name.isdecimal() and not is_step(name)},
        tuple(name for name in folders if ".damaged" in name),
    )


def whole_steps(checkpoints: str | os.PathLike | RemotePath) -> list[int]:
    """Returns the steps without visible damage (see `find_damage`) in ascending order."""
    return [step for step in saved_steps(checkpoints) if not find_damage(as_path(checkpoints) / str(step))]


def find_damage(checkpoint: AnyPath) -> str:
    """Says why a checkpoint is damaged, as far as its small files tell; empty if they are whole. Arrays are not read."""
    for name in (_POSITION_FILE, _ARRAYS_FILE, _INDEX_FILE):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    position, why = try_reading(lambda: read_position(checkpoint), checkpoint, _POSITION_FILE)
    if why:
        return why
    if not isinstance(position, dict) or position.get("step") != int(checkpoint.name):
        return f"{_POSITION_FILE} is not that of step {checkpoint.name}"
    arrays, why = try_reading(lambda: _read_json(checkpoint / _ARRAYS_FILE), checkpoint, _ARRAYS_FILE)
    if why:
        return why
    if not isinstance(arrays, dict) or not arrays.get("tree_metadata"):
        return f"{_ARRAYS_FILE} lists no arrays"
    return ""


def is_permanent(checkpoint: AnyPath) -> bool:
    """Returns True if a checkpoint says that it is never deleted, or is damaged and could have said so."""
    position, why = try_reading(lambda: read_position(checkpoint), checkpoint, _POSITION_FILE)
    return bool(why) or not isinstance(position, dict) or bool(position.get(PERMANENT))


def read_position(checkpoint: AnyPath) -> dict:
    """Returns the position that a checkpoint holds. Raises: OSError or ValueError, it cannot be read."""
    return _read_json(checkpoint / _POSITION_FILE)


def _read_json(file: AnyPath) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def try_reading(function: Callable[[], Any], checkpoint: AnyPath, part: str) -> tuple[Any, str]:
    """Calls a function that reads a part of a checkpoint, without the pages that Orbax logs where it fails.

    Args:
      function: reads it.
      checkpoint: the folder.
      part: the file or folder in it that is read, for the reason.

    Returns:
      (what it returns, "") or (None, why the checkpoint is damaged, one line).

    Raises:
      ConfigError: the files may not be read; they may be whole.
    """
    try:
        with orbax_output.quiet():
            return function(), ""
    except (ConfigError, MemoryError, jax.errors.JaxRuntimeError):  # JAX's: a device has no room for the arrays
        raise
    except Exception as raised:  # Orbax, TensorStore and JSON raise nearly every kind for files that are missing, cut or changed
        # Orbax names an index of the array, TensorStore's error behind it the file and what is wrong.
        cause = raised.__cause__ if _OBJECT in str(raised) else None
        error = raised if cause is None else cause
        raise_of_store(error)
        number = storage_error_number(error) or getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM):
            raise ConfigError(
                f"checkpoint {checkpoint} cannot be read ({os.strerror(number)}): make its files readable"
            ) from error
        if number in _PASSING:
            raise ConfigError(
                f"checkpoint {checkpoint} cannot be read ({os.strerror(number)}), and may be whole: give the command again when its disk answers"
            ) from error
        return None, _reason(error, checkpoint, part)


def _reason(error: BaseException, checkpoint: AnyPath, part: str) -> str:
    """Returns why a part of a checkpoint cannot be read, one line that names the part."""
    text = _shorten(error, checkpoint)
    if isinstance(error, ValueError) and error.__class__ is not ValueError:  # of a text or of JSON
        return f"{part} is damaged ({text})"
    if isinstance(error, TypeError | AttributeError | LookupError):  # of a program that met another value, which they do not name
        return f"{part} does not hold what was written there"
    return text if f"{part}/" in text or text.startswith(part) else f"{part}: {text}"


def _shorten(error: BaseException, checkpoint: AnyPath) -> str:
    """Returns the first line of an error of at most 200 characters, with paths relative to the checkpoint."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)} is missing"
    else:
        text = str(error) or type(error).__name__
    text = text.replace(f"{checkpoint}{os.sep}", "").partition("\n")[0].partition(_OBJECT)[0].strip()
    return f"{text:.200}" or type(error).__name__
