"""Functions over paths of both kinds, local ones and those with a scheme, which go through neither os.path nor pathlib."""

import errno
import functools
import glob as globbing
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable

from cvmae.storage.client import scheme_of
from cvmae.storage.remote_path import RemotePath

AnyPath = pathlib.Path | RemotePath
_NO_NUMBER = (0, 0xFFFFFFFF)  # what file systems without numbers of their own list, libfuse's among them
_NO_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_remote(path: object) -> bool:
    """Returns True for a RemotePath, and for a text with a scheme."""
    return isinstance(path, RemotePath) or (isinstance(path, str) and bool(scheme_of(path)))


def as_path(path: "str | os.PathLike | RemotePath") -> AnyPath:
    """Returns a RemotePath for a path with a scheme, else a pathlib.Path."""
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    return RemotePath(text) if isinstance(text, str) and scheme_of(text) else pathlib.Path(text)


def join(folder: str, *names: str) -> str:
    """Joins paths as os.path.join does, also where the folder, or a name, has a scheme; `..` is resolved where one has."""
    path = folder
    for name in names:
        if scheme_of(name):
            path = name
        elif not scheme_of(path):
            path = os.path.join(path, name)
        else:
            path = f"{path.rstrip('/')}/{name}"
    return str(RemotePath(path)) if scheme_of(path) else path


def expand_user(path: str) -> str:
    """Returns a path with the home folder in place of `~`; one with a scheme as it is."""
    return path if scheme_of(path) else os.path.expanduser(path)


def glob(pattern: str) -> list[str]:
    """Returns the files of a pattern with `*`, `?` and `[...]`, sorted; in a bucket only below its folders without any."""
    if not scheme_of(pattern):
        return sorted(globbing.glob(pattern))
    parts = pattern.split("/")
    first = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts) - 1)
    return [str(path) for path in RemotePath("/".join(parts[:first])).glob("/".join(parts[first:]))]


def dirname(path: str) -> str:
    """Returns the folder of a path."""
    return str(RemotePath(path).parent) if scheme_of(path) else os.path.dirname(path)


def names_in(path: str) -> list[str]:
    """Returns the sorted names of what lies in a folder. Raises: OSError."""
    return list(RemotePath(path).listing()) if scheme_of(path) else sorted(os.listdir(path))


def exists(path: str) -> bool:
    """Returns True if there is such a file or folder."""
    return RemotePath(path).exists() if scheme_of(path) else os.path.exists(path)


def isfile(path: str) -> bool:
    """Returns True if there is such a file."""
    return RemotePath(path).is_file() if scheme_of(path) else os.path.isfile(path)


def check_regular(path: str) -> None:
    """Checks that a local path is a file with bytes of its own: opening a named pipe, a socket or a device may wait forever.

    Raises:
      OSError: it is something else, which `strerror` names, or it is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = next((name for is_it, name in _NO_FILES if is_it(mode)), "something else")
        raise OSError(errno.EINVAL, f"no file but {what}", path)


def isdir(path: str) -> bool:
    """Returns True if there is such a folder."""
    return RemotePath(path).is_dir() if scheme_of(path) else os.path.isdir(path)


def real_names() -> Callable[[str], str]:
    """Returns a function from the path of a file to the one name that the file has, through whatever links; paths in buckets stay.

    Each folder is listed once: on NFS a look at every file would take minutes.
    """
    look = functools.cache(_real_folder)

    def name(path: str) -> str:
        if is_remote(path):
            return path
        folder, links = look(os.path.dirname(path))
        path = os.path.join(folder, os.path.basename(path))
        return os.path.realpath(path) if os.path.basename(path) in links else path

    return name


def _real_folder(folder: str) -> tuple[str, frozenset[str]]:
    """Returns the real path of a folder, and the names of the links in it."""
    try:
        with os.scandir(folder) as entries:
            return os.path.realpath(folder), frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:  # files that are not there are named when they are read
        return os.path.realpath(folder), frozenset()


def hard_links(files: Iterable[str]) -> dict[str, str]:
    """Returns {file: another of `files` that is the same file} of those with several names on their disk; files in buckets have one.

    As in `real_names`, each folder is listed once, and only files whose numbers agree are looked at: not every file system lists
    numbers that are a file's alone.
    """
    look = functools.cache(_numbers_of)
    first: dict[tuple[int, int], str] = {}
    same = {}
    for file in files:
        if is_remote(file):
            continue
        folder, name = os.path.split(file)
        device, numbers = look(folder)
        if (number := numbers.get(name, 0)) in _NO_NUMBER:
            continue
        other = first.setdefault((device, number), file)
        if other != file and _is_same_file(other, file):
            same[file] = other
    return same


def one_names(paths: Iterable[str]) -> dict[str, str]:
    """Returns {path: the name of its file}, one name for all paths of a file, through whatever links."""
    real = real_names()
    names = {path: real(path) for path in paths}
    links = hard_links(names.values())
    return {path: links.get(name, name) for path, name in names.items()}


def _numbers_of(folder: str) -> tuple[int, dict[str, int]]:
    """Returns the number of the disk of a folder, and the inode numbers of what is in it, by name."""
    try:
        with os.scandir(folder) as entries:
            return os.stat(folder).st_dev, {entry.name: entry.inode() for entry in entries}
    except OSError:
        return 0, {}


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # as in `_real_folder`
        return False
