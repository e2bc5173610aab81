"""Lock of a workdir for one run at a time: a file with the host and process of the run, which others see and respect.

The file is created exclusively, which is atomic on local disks, NFS and in buckets (where writing in place of another's file is
conditional too), and rewritten every few seconds with a higher number of
its beat. On the same machine the process tells whether the run lives. Elsewhere the beat does: a waiting process that sees it
advance is refused, and one that sees none for WAIT_S takes over. No clocks of two machines are compared, and files are read
again, so that caches of NFS and mounted buckets only delay what is seen.

A run whose lock is gone, or is another's by then, ends where it calls `check_held`, and writes nothing more.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from cvmae.config import ConfigError
from cvmae.files import StorageError, lost_link, replacing, set_aside
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath
from cvmae.training.lock_owner import describe_process, is_running, this_machine

LOCK = "run.lock"
BEAT_S = 10.0
WAIT_S = 60.0  # longer than the caches of NFS keep a file
SETTLE_S = 5.0
LOOKS = 4  # SETTLE_S apart: a server that comes back after a failure may once say that a file is not there


class _Holder(NamedTuple):
    """A thread that holds a lock, which the main process of a run alone has; the others have None."""

    thread: int
    lock: "_Lock | None"


_HELD: dict[str, _Holder] = {}  # by the paths of the locks of this process


class LostLockError(StorageError):
    """The lock of a run is gone or another's: the run ends and writes nothing more."""


@contextlib.contextmanager
def locked(workdir: str | os.PathLike | RemotePath) -> Iterator[None]:
    """Holds the lock of a workdir during the block; of several processes of a run the main one does.

    The thread that holds it may enter again. A lock that a dead process left is taken over.

    Raises:
      ConfigError: another run is in the workdir; the message names its host, process and start. In all processes.
      OSError: the file cannot be written.
    """
    path = (as_path(workdir) / LOCK).absolute()
    if str(path) in _HELD and _HELD[str(path)].thread == threading.get_ident():
        yield
        return
    lock, refusal = None, ""
    if processes.is_main_process():
        try:
            lock = _Lock.acquire(path)
        except ConfigError as error:
            refusal = str(error)
    if refusal := processes.allgather_json(refusal)[0]:
        raise ConfigError(refusal)
    _HELD[str(path)] = _Holder(threading.get_ident(), lock)
    try:
        yield
    finally:
        del _HELD[str(path)]
        if lock is not None:
            lock.release()


def check_held(workdir: str | os.PathLike | RemotePath, look: bool = False) -> None:
    """Checks that a workdir is still this run's, before something is written there; passes where the process holds no lock of it.

    Args:
      workdir: the folder of the run.
      look: True reads the file, False asks only what the heartbeat saw, and costs nothing.

    Raises:
      LostLockError: the folder or the lock is gone, or the lock is another run's, LOOKS times in a row.
    """
    holder = _HELD.get(str((as_path(workdir) / LOCK).absolute()))
    if holder is not None and holder.lock is not None:
        holder.lock.check(look)


class _Lock:
    """A lock that this process holds, and the thread that keeps it alive."""

    def __init__(self, path: AnyPath, owner: dict):
        self._path, self._owner = path, owner
        self._lost = ""  # why the lock is this process's no more
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="workdir lock", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, path: AnyPath) -> "_Lock":
        """Takes the lock, from a dead process too. Raises: ConfigError, a living one has it; OSError."""
        owner = describe_process()
        if lost := lost_link(path):
            raise ConfigError(lost)
        if not _create(path, owner):
            there = _settle(path)
            if there and is_alive(path, there):
                raise _refusal(path, there)
            aside = ""
            if there == {} and not _is_empty(path):
                aside = f": set aside as {set_aside(path).name}"
            if not _take_over(path, there, owner):
                raise _refusal(path, _read(path) or {})
            time.sleep(0.1)  # for another process that takes it over at the same time: the later one has it
            now = _read(path)
            if now and now["token"] != owner["token"]:
                raise _refusal(path, now)
            left = "names no process" if there == {} else "a run that has ended left"
            processes.log_once(f"took over {path}, which {left}{aside}")
        return cls(path, owner)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A full disk or a lost mount is not the end: whoever writes next says so.
            with contextlib.suppress(OSError):
                if not self._look():
                    return
                self._owner["beat"] += 1
                _rewrite(self._path, self._owner)

    def check(self, look: bool) -> None:
        """Raises LostLockError, see `check_held`."""
        with contextlib.suppress(OSError):  # no answer is no proof
            if look and not self._lost:
                self._look()
        if self._lost:
            raise LostLockError(self._lost)

    def _look(self) -> bool:
        """Returns True if the lock is this process's, and notes the loss where LOOKS looks in a row say that it is not. Raises: OSError."""
        for number in range(LOOKS):
            if number and self._stop.wait(SETTLE_S):
                return False
            if self._is_own():
                return True
        self._lost = _describe_loss(self._path, _read(self._path))
        return False

    def _is_own(self) -> bool:
        there = _read(self._path)
        return there is not None and there.get("token") == self._owner["token"]

    def release(self) -> None:
        """Deletes the file, unless another process has taken it over."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_own():
                self._path.unlink()


def is_alive(path: AnyPath, there: dict, wait_s: float | None = None) -> bool:
    """Returns True if the process that a lock describes still runs.

    Args:
      path: of the lock.
      there: what was read from it.
      wait_s: seconds to wait for a beat where the process is not of this machine; None for WAIT_S.
    """
    wait_s = WAIT_S if wait_s is None else wait_s
    if there.get("machine") == this_machine():
        return is_running(there)
    processes.log_once(f"{_describe(path, there)}: waiting up to {wait_s:g} s to see whether it still runs")
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        time.sleep(min(1.0, wait_s / 10))
        now = _read(path)
        if now is None and not path.exists():
            return False
        if now and (now["token"], now.get("beat")) != (there["token"], there.get("beat")):
            return True
    return False


def _create(path: AnyPath, owner: dict) -> bool:
    """Creates the file; returns False where it is there already. Raises: OSError."""
    if isinstance(path, RemotePath):
        return path.create(_encode(owner))
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "wb") as file:
            file.write(_encode(owner))
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()  # the disk is full: not even the next run should have to look at it
        raise
    return True


def _is_empty(path: AnyPath) -> bool:
    """Returns True for a lock without bytes, as a full disk leaves it, and for a missing one."""
    if isinstance(path, RemotePath):
        return not path.is_file() or path.status().size == 0
    return not path.is_dir() and path.stat().st_size == 0


def _rewrite(path: AnyPath, owner: dict) -> bool:
    """Writes the file of this process's lock; returns False where another has it by now. Raises: OSError."""
    if isinstance(path, RemotePath):
        stamp = path.status().stamp
        there = _read(path)
        return there is not None and there.get("token") == owner["token"] and path.replace_if(_encode(owner), stamp)
    # In the file that was read: one that another process puts in its place meanwhile is not touched.
    with open(path, "r+b") as file:
        if _parse(file.read()).get("token") != owner["token"]:
            return False
        file.seek(0)
        file.write(_encode(owner))
    return True


def _take_over(path: AnyPath, there: dict | None, owner: dict) -> bool:
    """Writes the file in place of that of a process that has ended; returns False where another process was faster."""
    if not isinstance(path, RemotePath):
        with replacing(path) as temporary:
            temporary.write_bytes(_encode(owner))
        return True
    try:
        stamp = path.status().stamp
    except FileNotFoundError:
        return path.create(_encode(owner))
    now = _read(path)
    return (now or {}).get("token") == (there or {}).get("token") and path.replace_if(_encode(owner), stamp)


def _read(path: AnyPath) -> dict | None:
    """Returns what a lock holds, {} where that is no process, None where the file is missing."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return {}


def _encode(owner: dict) -> bytes:
    """Returns the content of a lock, equally long at every beat: written over the last one it is never half of both."""
    return json.dumps(owner).ljust(1024).encode()


def _parse(content: bytes) -> dict:
    """Returns what a lock holds, {} where that is no process."""
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        return {}
    names = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("token", "machine"))
    return value if names and isinstance(value.get("pid"), int) and 0 < value["pid"] < 1 << 31 else {}


def _settle(path: AnyPath) -> dict | None:
    """Reads a lock as `_read` does; one that holds no process again and again for SETTLE_S."""
    there, end = _read(path), time.monotonic() + SETTLE_S
    if there == {}:
        processes.log_once(f"{path} names no process: waiting {SETTLE_S:g} s for a run that may be writing it at this moment")
    while there == {} and time.monotonic() < end:
        time.sleep(SETTLE_S / 20)
        there = _read(path)
    return there


def _describe(path: AnyPath, there: dict) -> str:
    host, pid, started = (there.get(name, "?") for name in ("host", "pid", "started"))
    return f"--workdir={path.parent} is in use by process {pid} on {host}, started {started}"


def _describe_loss(path: AnyPath, there: dict | None) -> str:
    ends = "during the run, which ends here and writes nothing more there"
    if there:
        host, pid, started = (there.get(name, "?") for name in ("host", "pid", "started"))
        return f"{path} was taken over by process {pid} on {host}, started {started}, {ends}: give another --workdir, or wait for its end"
    if there is None and not path.parent.exists():
        return (
            f"--workdir={path.parent} is gone, deleted or unmounted {ends}: bring it back, and the same command resumes from its "
            "newest checkpoint; without it, it begins again"
        )
    what = "is gone, deleted or unmounted" if there is None else "was changed by another program"
    return f"{path} {what} {ends}: the same command resumes from the newest checkpoint that is there"


def _refusal(path: AnyPath, there: dict) -> ConfigError:
    return ConfigError(f"{_describe(path, there)}: wait for its end or stop it, or give another --workdir")
