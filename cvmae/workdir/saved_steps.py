"""Steps of a workdir's checkpoints: which are there, which are damaged, and how a damaged one is set aside.

Runs that resume and `cvmae.interop` share these rules. Orbax writes a checkpoint under a temporary name and renames it to its
step once it is complete, so a damaged one comes of the storage or of somebody's hand, not of a run that was killed.
"""

import errno
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from cvmae.config import ConfigError
from cvmae.files import storage_error_number
from cvmae.workdir import orbax_output

STATE, POSITION = "state", "position"
_POSITION_FILE = f"{POSITION}/metadata"
_ARRAYS_FILE = f"{STATE}/_METADATA"
_INDEX_FILE = f"{STATE}/manifest.ocdbt"
# Errors of a disk or a connection that may be over soon, and say nothing about the files.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EHOSTDOWN}


def is_step(name: str) -> bool:
    """Returns True if a folder's name is a step as Orbax writes it: ASCII digits without leading zeros."""
    return name.isascii() and name.isdigit() and str(int(name)) == name


def saved_steps(checkpoints: str | os.PathLike) -> list[int]:
    """Returns the steps of all checkpoints in a folder in ascending order, damaged ones included; none if it is missing."""
    folder = pathlib.Path(checkpoints)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if is_step(path.name) and path.is_dir())


def whole_steps(checkpoints: str | os.PathLike) -> list[int]:
    """Returns the steps without visible damage (see `find_damage`) in ascending order."""
    return [step for step in saved_steps(checkpoints) if not find_damage(pathlib.Path(checkpoints) / str(step))]


def find_damage(checkpoint: pathlib.Path) -> str:
    """Says why a checkpoint is damaged, as far as its small files tell; empty if they are whole. Arrays are not read."""
    for name in (_POSITION_FILE, _ARRAYS_FILE, _INDEX_FILE):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    position, why = try_reading(lambda: read_position(checkpoint), checkpoint)
    if why:
        return f"{_POSITION_FILE}: {why}"
    if not isinstance(position, dict) or position.get("step") != int(checkpoint.name):
        return f"{_POSITION_FILE} is not that of step {checkpoint.name}"
    arrays, why = try_reading(lambda: _read_json(checkpoint / _ARRAYS_FILE), checkpoint)
    if why:
        return f"{_ARRAYS_FILE}: {why}"
    if not isinstance(arrays, dict) or not arrays.get("tree_metadata"):
        return f"{_ARRAYS_FILE} lists no arrays"
    return ""


def read_position(checkpoint: pathlib.Path) -> dict:
    """Returns the position that a checkpoint holds. Raises: OSError or ValueError, it cannot be read."""
    return _read_json(checkpoint / _POSITION_FILE)


def _read_json(file: pathlib.Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def try_reading(function: Callable[[], Any], checkpoint: pathlib.Path) -> tuple[Any, str]:
    """Calls a function that reads a checkpoint, without the pages that Orbax logs where it fails.

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
    except Exception as error:  # Orbax, TensorStore and JSON raise nearly every kind for files that are missing, cut or changed
        number = storage_error_number(error) or getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM):
            raise ConfigError(
                f"checkpoint {checkpoint} cannot be read ({os.strerror(number)}): make its files readable"
            ) from error
        if number in _PASSING:
            raise ConfigError(
                f"checkpoint {checkpoint} cannot be read ({os.strerror(number)}), and may be whole: give the command again when its disk answers"
            ) from error
        return None, shorten(error, checkpoint)


def shorten(error: BaseException, checkpoint: pathlib.Path) -> str:
    """Returns the first line of an error of at most 200 characters, with paths relative to the checkpoint."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)} is missing"
    else:
        text = str(error) or type(error).__name__
    text = text.replace(f"{checkpoint}{os.sep}", "").partition("\n")[0].strip()
    return f"{text:.200}" or type(error).__name__


def set_aside(checkpoint: pathlib.Path) -> pathlib.Path:
    """Renames a damaged checkpoint to STEP.damaged, or STEP.damaged.1 and so on where there is one, and returns its new path.

    Raises:
      OSError: it cannot be renamed.
    """
    number, new = 0, checkpoint.with_name(f"{checkpoint.name}.damaged")
    while new.exists():
        number += 1
        new = checkpoint.with_name(f"{checkpoint.name}.damaged.{number}")
    return checkpoint.rename(new)
