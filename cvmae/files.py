"""Files and folders that are written all or nothing, under the process's umask."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator

from cvmae.storage import client
from cvmae.storage.path import AnyPath, as_path, is_remote
from cvmae.storage.remote_path import RemotePath

LFS_POINTER = "a Git LFS pointer, not the file itself: run git lfs pull in its repository"


def is_lfs_pointer(head: bytes) -> bool:
    """Returns True for the beginning of a file that stands for a large one in a git repository."""
    return head.startswith(b"version https://git-lfs.github.com/spec/")


class StorageError(RuntimeError):
    """Something cannot be written; the message is one line with what, where, why, and the remedy."""


_FULL = "free some room there"
_LOST = "check that the disk or mount is there"
_CLOSED = "make the folder writable, or give another"
_OTHER = "move away what has this name"
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
    errno.ENOENT: f"{_LOST}, and that nothing deletes files of the run",
    errno.ENOTDIR: _LOST,
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "remove the link that leads back to itself",
    errno.EISDIR: _OTHER,
    errno.EEXIST: _OTHER,
}
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def storage_error_number(error: BaseException) -> int | None:
    """Returns the number, one of `REMEDIES`, of an error that the storage caused, whichever library reports it; else None."""
    if isinstance(error, OSError):
        if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy, where a disk is full
            return errno.ENOSPC
        return error.errno if error.errno in REMEDIES else None
    # array_record puts the words of a number into its text, TensorStore and safetensors the number.
    if words := re.match(r"\w+\(\) failed: ([^;]+)", str(error)):
        return next((number for number in REMEDIES if os.strerror(number) == words[1]), None)
    match = re.search(r"os[ _]error(?:_code)?\W{0,3}(\d+)", str(error), re.IGNORECASE)
    if match is None and str(error).startswith("NOT_FOUND: "):  # TensorStore, where a file that it wrote is gone
        return errno.ENOENT
    return int(match[1]) if match and int(match[1]) in REMEDIES else None


def _file_of(error: BaseException) -> str | None:
    """Returns the file that an error names."""
    file = getattr(error, "filename", None)
    if file is not None:
        return os.fsdecode(file)
    match = re.search(r'local file "([^"]+)"', str(error))
    return match and match[1]


@contextlib.contextmanager
def storage_errors(
    what: str,
    folder: str | os.PathLike | RemotePath,
    stays: str = "what is written stays",
    before: tuple[int, int] | None = None,
    only_writes: bool = False,
):
    """Turns errors of the storage in the block into a StorageError, and any error where the folder is gone that was there before.

    Args:
      what: could not be written, such as "the checkpoint of step 4".
      folder: where it is written. An error of a file elsewhere is one of these only if nothing but writing raises it.
      stays: what is left, for the message.
      before: `identify` of the folder as it was before the block.
      only_writes: True where the block does nothing else, so that also errors without a number, which libraries raise that speak to a
        bucket by themselves, are of writing.
    """
    before = before or identify(folder)
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number, file = storage_error_number(error), _file_of(error)
        # Libraries raise errors of their own kinds where a folder is deleted under them, and some create it again.
        if number not in _WRITING and before is not None and identify(folder) != before:
            raise StorageError(
                f"{what} cannot be written: the folder {folder} is gone, deleted or unmounted during the run: bring it back, and the same "
                "command resumes from its newest checkpoint; without it, it begins again"
            ) from error
        if only_writes and is_remote(str(folder)) and (lost := _error_of_bucket(error, str(folder))) is not None:
            reason, path = getattr(lost, "strerror", None) or str(lost), getattr(lost, "filename", None) or folder
            raise StorageError(f"{what} cannot be written: {path} ({reason}): {stays}, and the same command resumes") from error
        is_here = file is not None and _absolute(file).startswith(_absolute(str(folder)))
        if number is None or not (number in _WRITING or is_here):
            raise
        path = file or str(folder)
        reason, remedy = os.strerror(number), f"{lost_link(path) or REMEDIES[number]}; "
        if is_remote(path):
            reason, remedy = getattr(error, "strerror", None) or reason, ""
        raise StorageError(
            f"{what} cannot be written: {path} ({reason}): {remedy}{stays}, and the same command resumes"
        ) from error


def _error_of_bucket(error: Exception, folder: str) -> Exception | None:
    """Returns an error of a library that itself speaks to a bucket (Orbax by gcsfs, TensorStore) as ours are; None for any other error."""
    tensorstore = re.match(r"([A-Z_]+: .*?((?:gs|s3)://[^\s:]+).*?)(?: \[|$)", " ".join(str(error).split()))
    if tensorstore is not None:
        return OSError(errno.EIO, tensorstore[1], tensorstore[2])
    if getattr(error, "errno", None) is not None or not client.is_error_of_storage(error):
        return None
    return client.translate(error, folder)


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def identify(folder: str | os.PathLike | RemotePath) -> tuple[int, int] | None:
    """Returns the numbers of a folder and of its disk, which another folder of this path does not have; None without a folder.

    A folder of a bucket has no numbers.
    """
    if is_remote(as_path(folder)):
        return None
    try:
        there = os.stat(str(folder))
    except OSError:
        return None
    return there.st_dev, there.st_ino


def set_aside(path: str | os.PathLike | RemotePath, word: str = "damaged") -> AnyPath:
    """Renames a file or folder to NAME.WORD, or NAME.WORD.1 and so on where there is one, and returns its new path.

    Raises:
      OSError: it cannot be renamed.
    """
    path = as_path(path)
    return path.rename(_free_name(path, word))  # type: ignore[arg-type] # both are of one kind


def copy_aside(path: str | os.PathLike | RemotePath) -> AnyPath:
    """Copies a damaged file to the name that `set_aside` would give it, and returns that. Raises: OSError."""
    path = as_path(path)
    new = _free_name(path, "damaged")
    new.write_bytes(path.read_bytes())
    return new


def _free_name(path: AnyPath, word: str) -> AnyPath:
    number, new = 0, path.with_name(f"{path.name}.{word}")
    while new.exists() or (isinstance(new, pathlib.Path) and new.is_symlink()):
        number += 1
        new = path.with_name(f"{path.name}.{word}.{number}")
    return new


def lost_link(path: str | os.PathLike | RemotePath) -> str:
    """Describes the link without a target that a path is, or leads through; empty if there is no such link."""
    path = as_path(path)
    if isinstance(path, RemotePath):
        return ""
    for part in (path, *path.parents):
        if part.is_symlink() and not os.path.exists(part):
            return f"{part} is a link to {os.readlink(part)}, which is not there: bring that back (is it mounted?), or remove the link"
    return ""


@contextlib.contextmanager
def replacing(path: str | os.PathLike | RemotePath) -> Iterator[pathlib.Path]:
    """Gives a temporary path that takes the place of `path` when the block ends, and is gone when it fails.

    It lies beside `path`, or for a path in a bucket in a temporary folder, from which the whole file is uploaded.
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="cvmae-") as folder:
            temporary = pathlib.Path(folder) / path.name
            yield temporary
            path.upload(temporary)
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _unlock(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == os.fspath(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that was asked for
        raise
    finally:
        temporary.unlink(missing_ok=True)


# The start of an absolute path, and its parts. What stands before it is no part of a relative path, an address or a product.
_ABSOLUTE = re.compile(r"(?<![\w:/.~*)\]}-])(?:file:/{2,3}|~[\w.-]*/|/)(?:[^\s/'\",;:()\[\]<>|]+/*)+")


def without_paths(text: str) -> str:
    """Returns a text with every absolute path in it cut to its last part, for files that others read."""
    return _ABSOLUTE.sub(lambda match: match[0].rstrip("/").rpartition("/")[2], text)


def cache_folder() -> pathlib.Path:
    """Returns the folder for files that can be recomputed: $CVMAE_CACHE, else $XDG_CACHE_HOME/cvmae, else ~/.cache/cvmae."""
    if os.environ.get("CVMAE_CACHE"):
        return pathlib.Path(os.environ["CVMAE_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cvmae"


def local_folder(path: str | os.PathLike | RemotePath, purpose: str) -> pathlib.Path:
    """Returns a folder as it is, and for one in a bucket a folder of this machine's cache that is its own for a purpose, one word."""
    path = as_path(path)
    if isinstance(path, pathlib.Path):
        return path
    return cache_folder() / purpose / hashlib.blake2b(str(path).encode(), digest_size=8).hexdigest()


def write_json(path: str | os.PathLike | RemotePath, value) -> None:
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
