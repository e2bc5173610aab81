"""Files and folders that are written all or nothing, under the process's umask."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import stat
from collections.abc import Iterator


class StorageError(RuntimeError):
    """Something cannot be written; the message is one line with what, where, why, and the remedy."""


_FULL = "free some room there"
_LOST = "check that the disk or mount is there"
_CLOSED = "make the folder writable, or give another"
# What to do, by the number of an OSError. The first four come of writing only.
REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "free some room there, or raise the quota",
    errno.EFBIG: "raise the limit of the size of files",
    errno.EROFS: _CLOSED,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EIO: _LOST,
    errno.ESTALE: _LOST,
    errno.ENOTCONN: _LOST,
    errno.ENODEV: _LOST,
    errno.ENXIO: _LOST,
    errno.ETIMEDOUT: _LOST,
    errno.EHOSTDOWN: _LOST,
    errno.ENOENT: _LOST,
    errno.ENOTDIR: _LOST,
}
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def storage_error_number(error: BaseException) -> int | None:
    """Returns the number, one of `REMEDIES`, of an error that the storage caused, whichever library reports it; else None."""
    if isinstance(error, OSError):
        if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy, where a disk is full
            return errno.ENOSPC
        return error.errno if error.errno in REMEDIES else None
    # TensorStore and safetensors put the number into their text.
    match = re.search(r"os[ _]error(?:_code)?\W{0,3}(\d+)", str(error), re.IGNORECASE)
    return int(match[1]) if match and int(match[1]) in REMEDIES else None


@contextlib.contextmanager
def storage_errors(what: str, folder: str | os.PathLike, stays: str = "what is written stays"):
    """Turns errors of the storage in the block into a StorageError.

    Args:
      what: could not be written, such as "the checkpoint of step 4".
      folder: where it is written. An error of a file elsewhere is one of these only if nothing but writing raises it.
      stays: what is left, for the message.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = storage_error_number(error)
        file = getattr(error, "filename", None)
        is_here = file is None or os.path.abspath(os.fsdecode(file)).startswith(os.path.abspath(folder))
        if number is None or not (number in _WRITING or (is_here and isinstance(error, OSError) and file is not None)):
            raise
        path = folder if file is None else os.fsdecode(file)
        raise StorageError(
            f"{what} cannot be written: {path} ({os.strerror(number)}): {REMEDIES[number]}; {stays}, and the same command resumes"
        ) from error


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
