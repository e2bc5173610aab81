"""Python processes that work for this one, as many as there are cores."""

import os
import subprocess
import sys


def cores() -> int:
    """Cores that this process may use: a container or a scheduler may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_python(code: str) -> subprocess.Popen:
    """Runs a line of Python in a process that imports what this one does; text goes in and out by pipes.

    Not by multiprocessing: fork is unsafe once there are threads (JAX has some), and spawn runs the caller's script again, which
    breaks notebooks, `python -` and scripts without a __main__ guard.
    """
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )
