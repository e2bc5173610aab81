"""Lock of a workdir for one run at a time: a file with the host and process of the run, which others see and respect.

The file is created exclusively, which is atomic on local disks and NFS, and rewritten every few seconds with a higher number of
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
from cvmae.files import write_json
from cvmae.parallel import processes

LOCK = "run.lock"
BEAT_S = 10.0
WAIT_S = 60.0  # longer than the caches of NFS keep a file
_HELD: dict[str, int] = {}  # paths of the locks of this process, with the thread that holds each


@contextlib.contextmanager
def locked(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds the lock of a workdir during the block; of several processes of a run the main one does.

    The thread that holds it may enter again. A lock that a dead process left is taken over.

    Raises:
      ConfigError: another run is in the workdir; the message names its host, process and start. In all processes.
      OSError: the file cannot be written.
    """
    path = (pathlib.Path(workdir) / LOCK).absolute()
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

    def __init__(self, path: pathlib.Path, owner: dict):
        self._path, self._owner = path, owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="workdir lock", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, path: pathlib.Path) -> "_Lock":
        """Takes the lock, from a dead process too. Raises: ConfigError, a living one has it; OSError."""
        owner = describe_process()
        if not _create(path, owner):
            there = _read(path)
            if there is not None and is_alive(path, there):
                raise _refusal(path, there)
            write_json(path, owner)
            time.sleep(0.1)  # for another process that takes it over at the same time: the later one has it
            there = _read(path)
            if there is not None and there.get("token") != owner["token"]:
                raise _refusal(path, there)
            processes.log_once(f"took over {path}, which a run that has ended left")
        return cls(path, owner)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A full disk or a lost mount is not the end: whoever writes next says so.
            with contextlib.suppress(OSError):
                if not self._is_own():
                    return
                self._owner["beat"] += 1
                write_json(self._path, self._owner)

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


def is_alive(path: pathlib.Path, there: dict, wait_s: float | None = None) -> bool:
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
        if now is not None and (now.get("token"), now.get("beat")) != (there.get("token"), there.get("beat")):
            return True
    return False


def _is_running(pid, birth) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
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


def _create(path: pathlib.Path, owner: dict) -> bool:
    """Creates the file; returns False where it is there already. Raises: OSError."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(owner))
    return True


def _read(path: pathlib.Path) -> dict | None:
    """Returns what a lock holds, {} where it is damaged, None where the file is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _describe(path: pathlib.Path, there: dict) -> str:
    host, pid, started = (there.get(name, "?") for name in ("host", "pid", "started"))
    return f"--workdir={path.parent} is in use by process {pid} on {host}, started {started}"


def _refusal(path: pathlib.Path, there: dict) -> ConfigError:
    return ConfigError(f"{_describe(path, there)}: wait for its end or stop it, or give another --workdir")
