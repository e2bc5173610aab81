"""Runs of several processes on this machine with one CPU device each, as a launcher would start them."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.commands import ROOT
from tests.servers import free_port

PATIENCE_S = 300  # after this a process is taken to hang and is killed; no test takes a tenth of it


@dataclasses.dataclass(frozen=True)
class Ended:
    """Result of a process: exit code, output, and the time of its end, in seconds of `time.monotonic`."""

    returncode: int
    stdout: str
    stderr: str
    at: float


def free_address() -> str:
    """Returns 127.0.0.1 and a free port."""
    return f"127.0.0.1:{free_port()}"


def flags(address: str, count: int, process: int) -> list[str]:
    """Returns the flags of `cvmae.main` for one of `count` processes; [] if there is only one."""
    if count == 1:
        return []
    return [f"--coordinator={address}", f"--processes={count}", f"--process={process}", "--connect_s=120", "--heartbeat_s=10"]


def share_programs() -> None:
    """Makes the first of several processes compile and the others use its programs; called before anything is compiled."""
    import jax
    from jax._src import cache_key

    jax.config.update("jax_share_binary_between_hosts", True)
    # The key of a compiled program contains a fingerprint of the devices, which on CPU differs between processes.
    cache_key._hash_accelerator_config = lambda hash_obj, accelerators: hash_obj.update(str(accelerators.shape).encode())


def run_all(commands: list[list[str]], env=None, waited: int | None = None) -> list[Ended]:
    """Runs Python with each list of arguments in parallel until all, or the first `waited`, have ended; then kills the rest."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    with tempfile.TemporaryDirectory() as folder:
        outputs = [[pathlib.Path(folder, f"{number}{kind}") for kind in ("out", "err")] for number in range(len(commands))]
        processes = []
        try:
            for command, (out, err) in zip(commands, outputs):
                with open(out, "w") as stdout, open(err, "w") as stderr:
                    program = [sys.executable, *command]
                    processes.append(subprocess.Popen(program, stdout=stdout, stderr=stderr, cwd=ROOT, env=environment))
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
    """Returns the time at which each process ended, infinity for those still running after PATIENCE_S."""
    ends, start = [0.0] * len(processes), time.monotonic()
    while not all(ends) and time.monotonic() < start + PATIENCE_S:
        for number, process in enumerate(processes):
            if not ends[number] and process.poll() is not None:
                ends[number] = time.monotonic()
        time.sleep(0.05)
    return [end or float("inf") for end in ends]
