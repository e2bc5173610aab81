"""Files and folders that are written all or nothing, under the process's umask."""

import contextlib
import json
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` that takes its place when the block ends, and is gone when it fails."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _unlock(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> pathlib.Path:
    """Returns the folder for files that can be recomputed: $CVMAE_CACHE, else $XDG_CACHE_HOME/cvmae, else ~/.cache/cvmae."""
    if os.environ.get("CVMAE_CACHE"):
        return pathlib.Path(os.environ["CVMAE_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cvmae"


def write_json(path: str | os.PathLike, value) -> None:
    """Writes a value as indented JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary folder beside `path` that takes its name when the block ends, and is gone when the block fails.

    Raises:
      FileExistsError: `path` is a file, or a folder that holds something; what it holds is left as it is.
    """
    path = pathlib.Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: give another folder to write to")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} holds files already: give a folder that is empty or not there yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process that had this number
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _unlock(file)
        if path.is_dir():
            path.rmdir()  # empty; a rename does not replace a folder everywhere
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unlock(file: pathlib.Path) -> None:
    """Gives a private file (0600) the permissions of one that `open` makes.

    Writers that go through a temporary file of their own, as safetensors does, leave its private permissions.
    """
    if not file.is_file() or stat.S_IMODE(file.stat().st_mode) != 0o600:
        return
    # The umask can be read only by setting it, for all threads; a new file shows what it allows.
    probe = file.with_name(f"{file.name}.mode")
    probe.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()
    if mode != 0o600:
        file.chmod(mode)
