"""Programs run by several processes on this machine, one CPU device each, as a launcher would start them."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from tests.commands import QUICK, ROOT

PATIENCE_S = 300  # after which a process counts as hanging and is killed; nothing here takes a tenth of that


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that ended: exit code, what it printed, and when that was, in seconds of `time.monotonic`."""

    returncode: int
    stdout: str
    stderr: str
    at: float


def free_address() -> str:
    """127.0.0.1 and a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def flags(address: str, count: int, process: int) -> list[str]:
    """What tells a process of the command where it belongs; none for one process."""
    place = [f"--coordinator={address}", f"--processes={count}", f"--process={process}", "--connect_s=120", "--heartbeat_s=10"]
    return place if count > 1 else []


def share_programs() -> None:
    """Lets the first of several processes compile and the others take over what it made; for a program, before it compiles."""
    import jax
    from jax._src import cache_key

    jax.config.update("jax_share_binary_between_hosts", True)
    # JAX looks for a compiled program under a fingerprint of the devices; on CPU, unlike elsewhere, every process has another.
    cache_key._hash_accelerator_config = lambda found, devices: found.update(str(devices.shape).encode())


def run_all(commands: list[list[str]], env=None, waited: int | None = None) -> list[Ended]:
    """Runs Python with each list of arguments at once, until all, or the first `waited`, have ended; none outlives this call."""
    environment = os.environ | QUICK | {"PYTHONPATH": str(ROOT)} | (env or {})
    with tempfile.TemporaryDirectory() as folder:
        outputs = [[pathlib.Path(folder, f"{number}{kind}") for kind in ("out", "err")] for number in range(len(commands))]
        processes = []
        try:
            for command, (out, err) in zip(commands, outputs):
                with open(out, "w") as stdout, open(err, "w") as stderr:
                    streams = {"stdout": stdout, "stderr": stderr, "cwd": ROOT, "env": environment}
                    processes.append(subprocess.Popen([sys.executable, *command], **streams))
            ends = wait(processes[:waited]) + [float("inf")] * (0 if waited is None else len(processes) - waited)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [
            Ended(process.returncode, out.read_text(), err.read_text(), at)
            for process, (out, err), at in zip(processes, outputs, ends)
        ]


def wait(processes: list[subprocess.Popen]) -> list[float]:
    """When each ended; all that are left are killed when one hangs."""
    ends, start = [0.0] * len(processes), time.monotonic()
    while not all(ends) and time.monotonic() < start + PATIENCE_S:
        for number, process in enumerate(processes):
            if not ends[number] and process.poll() is not None:
                ends[number] = time.monotonic()
        time.sleep(0.05)
    return [end or float("inf") for end in ends]
