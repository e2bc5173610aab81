"""The process that holds a lock, as the file of the lock describes it: enough to tell whether it still runs."""

import contextlib
import datetime
import os
import pathlib
import socket
import uuid


def describe_process() -> dict:
    """Describes this process as a lock holds it, for JSON."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": this_machine(),
        "birth": _birth(os.getpid()),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }


def is_running(there: dict) -> bool:
    """Returns True if a process of this machine, which a lock describes, still runs."""
    pid, birth = there.get("pid"), there.get("birth")
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


def this_machine() -> str:
    """Names the set of processes that this process can see: the host, its boot and the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
