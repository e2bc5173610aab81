"""Lock of a workdir for one run at a time: a file with the host and process of the run, which others see and respect.

The file is created exclusively, which is atomic on local disks, NFS and in buckets (where writing in place of another's file is
conditional too), and rewritten every few seconds with a higher number of
its beat. On the same machine the process tells whether the run lives. Elsewhere the beat does: a waiting process that sees it
advance is refused, and one that sees none for WAIT_S takes over. No clocks of two machines are compared, and files are read
again, so that caches of NFS and mounted buckets only delay what is seen.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from cvmae.config import ConfigError
from cvmae.files import lost_link, set_aside, write_json
from cvmae.parallel import processes
from cvmae.storage.path import AnyPath, as_path
from cvmae.storage.remote_path import RemotePath

LOCK = "run.lock"
BEAT_S = 10.0
WAIT_S = 60.0  # longer than the caches of NFS keep a file
SETTLE_S = 5.0
_HELD: dict[str, int] = {}  # paths of the locks of this process, with the thread that holds each


@contextlib.contextmanager
def locked(workdir: str | os.PathLike | RemotePath) -> Iterator[None]:
    """Holds the lock of a workdir during the block; of several processes of a run the main one does.

    The thread that holds it may enter again. A lock that a dead process left is taken over.

    Raises:
      ConfigError: another run is in the workdir; the message names its host, process and start. In all processes.
      OSError: the file cannot be written.
    """
    path = (as_path(workdir) / LOCK).absolute()
    if _HELD.get(str(path)) == threading.get_ident():
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
    _HELD[str(path)] = threading.get_ident()
    try:
        yield
    finally:
        del _HELD[str(path)]
        if lock is not None:
            lock.release()


class _Lock:
    """A lock that this process holds, and the thread that keeps it alive."""

    def __init__(self, path: AnyPath, owner: dict):
        self._path, self._owner = path, owner
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
                if not self._is_own():
                    return
                self._owner["beat"] += 1
                if not _rewrite(self._path, self._owner):
                    return

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


def describe_process() -> dict:
    """Describes this process as a lock holds it, for JSON."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "birth": _birth(os.getpid()),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }


def is_alive(path: AnyPath, there: dict, wait_s: float | None = None) -> bool:
    """Returns True if the process that a lock describes still runs.

    Args:
      path: of the lock.
      there: what was read from it.
      wait_s: seconds to wait for a beat where the process is not of this machine; None for WAIT_S.
    """
    wait_s = WAIT_S if wait_s is None else wait_s
    if there.get("machine") == _machine():
        return _is_running(there.get("pid"), there.get("birth"))
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


def _is_running(pid, birth) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return _birth(pid) == birth  # the number may be another process's by now


def _birth(pid: int) -> str:
    """Returns the time of a process's start in ticks; "dead" for one that only waits to be collected, "" where the system has no /proc."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything
    return "dead" if fields[0] in "ZX" else fields[19]


def _machine() -> str:
    """Names the set of processes that this process can see: the host, its boot and the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _create(path: AnyPath, owner: dict) -> bool:
    """Creates the file; returns False where it is there already. Raises: OSError."""
    if isinstance(path, RemotePath):
        return path.create(json.dumps(owner).encode())
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(owner))
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
    """Writes the file of this process's lock; returns False where another has it by now, which only a bucket can tell here."""
    if isinstance(path, RemotePath):
        stamp = path.status().stamp
        there = _read(path)
        return there is not None and there.get("token") == owner["token"] and path.replace_if(json.dumps(owner).encode(), stamp)
    write_json(path, owner)
    return True


def _take_over(path: AnyPath, there: dict | None, owner: dict) -> bool:
    """Writes the file in place of that of a process that has ended; returns False where another process was faster."""
    if not isinstance(path, RemotePath):
        write_json(path, owner)
        return True
    try:
        stamp = path.status().stamp
    except FileNotFoundError:
        return path.create(json.dumps(owner).encode())
    now = _read(path)
    return (now or {}).get("token") == (there or {}).get("token") and path.replace_if(json.dumps(owner).encode(), stamp)


def _read(path: AnyPath) -> dict | None:
    """Returns what a lock holds, {} where that is no process, None where the file is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, RecursionError):
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


def _refusal(path: AnyPath, there: dict) -> ConfigError:
    return ConfigError(f"{_describe(path, there)}: wait for its end or stop it, or give another --workdir")
