"""Start and end of a run with several processes, on top of JAX's coordination service.

The service runs in process 0, and every process sends it heartbeats. If those of one process stop for HEARTBEAT_S seconds, or process
0 ends, all others are ended with the reason on stderr and an exit code other than 0.
"""

import functools
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

import jax

from cvmae.config import ConfigError, require
from cvmae.parallel import processes
from cvmae.parallel.signals import leave_now

CONNECT_S = 300.0  # for all processes to connect; the hosts of a pod do not start at the same time
HEARTBEAT_S = 100.0  # JAX's default; less would end runs that a slow network or a live migration only delays
SHUTDOWN_S = 3600.0  # for process 0 to write its report while the others wait at their end; heartbeats continue
LAST_WORDS_S = 5.0  # that process 0 waits after an error: when its service ends, the others are aborted while they print theirs

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ConnectError(RuntimeError):
    """The processes of a run did not connect; the message is one line with what to check."""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    connect_s: float = CONNECT_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> None:
    """Connects this process to the others of its run; does nothing in a run of one. Call it before anything uses a device.

    Args:
      coordinator: HOST:PORT of process 0, where its coordination service listens; needs `processes` and `process`. Without it, the
        environment shows whether there are other processes (see `launcher`), and JAX finds them.
      processes: the number of processes.
      process: the index of this one, from 0.
      connect_s: seconds to wait for all of them. After that the program ends with exit code 1 and a line with what to check.
      heartbeat_s: seconds without a heartbeat after which a process counts as gone, and all others end.

    Raises:
      ConfigError: only some of the three flags are given, or they contradict each other.
      ConnectError: JAX cannot connect to the processes that the environment names.
    """
    check_flags(coordinator, processes, process)
    started_by = "flags" if coordinator else launcher(os.environ)
    if started_by is None or processes == 1:
        return
    describe = functools.partial(_connect_message, coordinator, processes, process, started_by)
    # At its own timeout JAX aborts the process without a Python exception; the timer is earlier, and prints what to check.
    watch = threading.Timer(connect_s, _give_up, [describe(connect_s)])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=int(connect_s) + 60,
            heartbeat_timeout_seconds=max(1, round(heartbeat_s)),
            shutdown_timeout_seconds=int(SHUTDOWN_S),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConnectError(f"{describe()}: {error}") from error
    finally:
        watch.cancel()


def check_devices() -> None:
    """Raises ConfigError where JAX has no device of the platform that JAX_PLATFORMS asks for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that it has a backend where CUDA finds no GPU
        reason = (str(error).splitlines() or ["this machine has no such device"])[0].partition(" (set JAX_PLATFORMS")[0]
        raise ConfigError(
            f"JAX finds no device with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} ({reason}): "
            "set it to cpu, or to nothing for the devices that are here"
        ) from error


def check_flags(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises ConfigError where only some of the flags are given, or a value is impossible."""
    flags = {"coordinator": coordinator, "processes": processes, "process": process}
    if coordinator is None or processes is None or process is None:
        missing = [f"--{name}" for name, value in flags.items() if value is None]
        require(
            len(missing) == len(flags),
            f"{', '.join(missing)} missing: --coordinator=HOST:PORT --processes=N --process=I go together",
        )
        return
    require(
        re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}", coordinator) is not None,
        f"--coordinator={coordinator!r} is not HOST:PORT: give a name or address of process 0 that all reach, such as 10.0.0.1:8476",
    )
    require(
        processes >= 1 and 0 <= process < processes,
        f"--process={process} --processes={processes}: processes count from 0, so the last of N is N - 1",
    )


def launcher(environment: Mapping[str, str]) -> str | None:
    """Detects the launcher that started this process as one of several: a name for messages, None in a run of one process.

    Stricter than JAX, which also takes a single process in a Slurm shell, or in any Kubernetes pod, for one of several.
    """
    get = environment.get
    if all(name in environment for name in _SLURM) and int(get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"]) > 1:
        return "Slurm"
    if "OMPI_MCA_orte_hnp_uri" in environment and int(get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    hosts = get("TPU_PROCESS_ADDRESSES") or get("TPU_WORKER_HOSTNAMES") or ""
    if "," in hosts or int(get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return "TPU"
    # `import jax` sets TPU_SKIP_MDS_QUERY where there is no TPU; elsewhere the metadata of the machine shows whether it is in a pod.
    if not hosts and "TPU_SKIP_MDS_QUERY" not in environment and importlib.util.find_spec("libtpu"):
        return "TPU VM"
    if (
        "JOB_COMPLETION_INDEX" in environment
        and "KUBERNETES_SERVICE_HOST" in environment
        and importlib.util.find_spec("kubernetes")
    ):
        return "Kubernetes"
    return None


def _connect_message(coordinator, processes, process, started_by: str, connect_s: float | None = None) -> str:
    """Returns the beginning of an error message; with `connect_s`, after which the time is up, all of it."""
    if not coordinator:
        text = f"the processes that {started_by} started did not find each other"
        hint = "check that all run and reach the first one's host, or give --coordinator, --processes and --process"
    elif process == 0:
        text = f"process 0 of {processes} waits at {coordinator} and the others did not all connect"
        hint = "check that all run, with the same --coordinator and --processes, and reach this port (firewall)"
    else:
        text = f"process {process} of {processes} did not reach the coordinator at {coordinator}, or others did not"
        hint = "check that process 0 runs there, that the port is free there and open to here, and that all processes run"
    return text if connect_s is None else f"{text} within {connect_s:g} s (--connect_s): {hint}"


def _give_up(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def is_multi_process() -> bool:
    """Returns True if this process is connected to others; unlike `processes.is_single_process`, without initializing devices."""
    return jax.distributed.is_initialized()


def process_name() -> str:
    """Returns `process 1 of 4: ` for messages; empty in a run of one process."""
    return f"process {jax.process_index()} of {jax.process_count()}: " if is_multi_process() else ""


def leave(code: int) -> NoReturn:
    """Ends this process after an error, without waiting for the others, which may be unable to continue."""
    if not is_multi_process():
        sys.exit(code)
    if processes.is_main_process():
        time.sleep(LAST_WORDS_S)
    leave_now(code)


def explain(error: BaseException) -> str:
    """Returns one line for an unexpected error; with several processes its cause is mostly that another one ended."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''} (if another process ended first, its own output has the cause)"


def shutdown() -> None:
    """Disconnects from the other processes; returns once all of them are done."""
    if is_multi_process():
        jax.distributed.shutdown()
