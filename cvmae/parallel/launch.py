"""One run over several processes: how they find each other, and how they end together.

JAX's own runtime does both. Its coordination service runs in process 0; every process sends heartbeats to it, and when those of one
stop for HEARTBEAT_S seconds, or process 0 is gone, it ends all others with the reason on stderr and an exit code that is not 0.
"""

import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Mapping

import jax

from cvmae.config import require
from cvmae.parallel import processes

CONNECT_S = 300.0  # for all processes to be there; a pod's hosts do not start at once
HEARTBEAT_S = 100.0  # JAX's own; shorter ends a run that a slow network or a migrated machine only held up
SHUTDOWN_S = 3600.0  # for process 0 to write its report while the others, done, wait; heartbeats go on meanwhile
LAST_WORDS_S = 5.0  # that process 0 outlives an error: when its service ends, the others are aborted in the middle of theirs

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ConnectError(RuntimeError):
    """The processes of a run did not find each other; the message is one line that says what to check."""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    connect_s: float = CONNECT_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> None:
    """Joins this process to the others of its run; does nothing where there are none. Call it before anything touches a device.

    Args:
      coordinator: HOST:PORT of process 0, where its coordination service will listen; with it go the next two. Without, the
        environment says whether there are other processes (see `launcher`), and JAX finds them.
      processes: how many.
      process: which of them this is, from 0.
      connect_s: how long to wait for all of them. After that the program ends, exit code 1, with a line that says what to check.
      heartbeat_s: how long a process may be silent before it counts as gone and all others end.

    Raises:
      ConfigError: the three flags do not go together.
      ConnectError: what the environment names is not there.
    """
    given = (coordinator, processes, process)
    check_flags(*given)
    found = "flags" if coordinator else launcher(os.environ)
    if found is None or processes == 1:
        return
    how = dict(zip(("coordinator_address", "num_processes", "process_id"), given)) if coordinator else {}
    # JAX aborts without a word of Python when the time is up; the watch is quicker and says what to check.
    watch = threading.Timer(connect_s, _give_up, [_who(coordinator, processes, process, found, connect_s)])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            **how,
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=int(connect_s) + 60,
            heartbeat_timeout_seconds=max(1, round(heartbeat_s)),
            shutdown_timeout_seconds=int(SHUTDOWN_S),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConnectError(f"{_who(*given, found)}: {error}") from error
    finally:
        watch.cancel()


def check_flags(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises ConfigError where the flags are not all there or say nothing possible."""
    flags = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return
    require(not missing, f"{', '.join(missing)} missing: --coordinator=HOST:PORT --processes=N --process=I go together")
    require(
        re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}", coordinator) is not None,
        f"--coordinator={coordinator!r} is no HOST:PORT: give a name or address of process 0 that all reach, such as 10.0.0.1:8476",
    )
    require(
        processes >= 1 and 0 <= process < processes,
        f"--process={process} --processes={processes}: processes count from 0, so the last of N is N - 1",
    )


def launcher(environment: Mapping[str, str]) -> str | None:
    """What started this process as one of several, by the environment: a name for messages, or None where nothing says so.

    More is asked for than by JAX, which also takes a lone process in a shell of Slurm, or in any Kubernetes pod, for one of several.
    """
    get = environment.get
    if all(name in environment for name in _SLURM) and int(get("SLURM_STEP_NUM_TASKS") or get("SLURM_NTASKS")) > 1:
        return "Slurm"
    if "OMPI_MCA_orte_hnp_uri" in environment and int(get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    hosts = get("TPU_PROCESS_ADDRESSES") or get("TPU_WORKER_HOSTNAMES") or ""
    if "," in hosts or int(get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return "TPU"
    # `import jax` sets TPU_SKIP_MDS_QUERY where there is no TPU; elsewhere the machine's metadata knows whether it is one of a pod.
    if not hosts and "TPU_SKIP_MDS_QUERY" not in environment and importlib.util.find_spec("libtpu"):
        return "TPU VM"
    if (
        "JOB_COMPLETION_INDEX" in environment
        and "KUBERNETES_SERVICE_HOST" in environment
        and importlib.util.find_spec("kubernetes")
    ):
        return "Kubernetes"
    return None


def _who(coordinator, processes, process, found: str, connect_s: float | None = None) -> str:
    """The beginning of a message, or all of it where the time is up."""
    if not coordinator:
        text = f"the processes that {found} started did not find each other"
        hint = "check that all run and reach the first one's host, or give --coordinator, --processes and --process"
    elif process == 0:
        text = f"process 0 of {processes} waits at {coordinator} and the others did not all come"
        hint = "check that all run, with the same --coordinator and --processes, and reach this port (firewall)"
    else:
        text = f"process {process} of {processes} did not reach the coordinator at {coordinator}, or others did not"
        hint = "check that process 0 runs there, that the port is free there and open to here, and that all processes run"
    return text if connect_s is None else f"{text} within {connect_s:g} s (--connect_s): {hint}"


def _give_up(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def is_multi_process() -> bool:
    """Whether this process joined others; unlike the questions of `multihost`, this one touches no device."""
    return jax.distributed.is_initialized()


def process_name() -> str:
    """`process 1 of 4: ` for messages; empty in a process that is alone."""
    return f"process {jax.process_index()} of {jax.process_count()}: " if is_multi_process() else ""


def leave(code: int) -> None:
    """Ends this process, one of several, after an error, without waiting for anything the others would have to do as well."""
    if not is_multi_process():
        sys.exit(code)
    if processes.is_main_process():
        time.sleep(LAST_WORDS_S)
    leave_now(code)


def leave_now(code: int) -> None:
    """Ends this process without the interpreter's shutdown, which crashes where a thread of JAX still compiles."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain(error: BaseException) -> str:
    """One line for an error that nothing in this package raises on purpose: among several processes, mostly the end of another."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''} (if another process ended first, its own output has the cause)"


def shutdown() -> None:
    """Leaves the others in order: returns once all of them are done."""
    if is_multi_process():
        jax.distributed.shutdown()
