"""Helper processes that run Python code, and the number of cores for them."""

import os
import subprocess
import sys


def cores() -> int:
    """Returns the number of cores this process may use; containers and schedulers may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_python(code: str) -> subprocess.Popen:
    """Starts a process that runs `code` with the import path of this one, with text pipes for stdin and stdout.

    This replaces multiprocessing: fork is unsafe once there are threads (JAX starts some), and spawn runs the caller's script
    again, which breaks notebooks, `python -` and scripts without a __main__ guard.
    """
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )
