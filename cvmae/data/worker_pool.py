"""Worker processes that call a function for one job after another; a crash or a hang costs only the job that caused it."""

import contextlib
import importlib
import json
import math
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from cvmae.data.timeout import TimeLimitError, call_with_limit
from cvmae.data.worker_processes import signals_blocked


class StopRun(Exception):
    """Raised by a job's function if the cause is not the job: the remaining jobs would fail as well."""


class Failure(str):
    """Reason why a job has no answer: its process died, it took too long, or its function raised an exception."""


def available_cores() -> int:
    """Returns the cores that this process may use: a container or scheduler may grant fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(min(cores, cgroup_cores(pathlib.Path("/"))))


def cgroup_cores(root: pathlib.Path) -> float:
    """Returns the processor time that Linux grants this process's control group, in cores; infinity without a limit.

    Args:
      root: folder that has `proc` and `sys`.
    """
    limits, folder = [math.inf], root / "sys/fs/cgroup"
    groups = _read(root / "proc/self/cgroup").splitlines()
    own = next((line[len("0::/") :] for line in groups if line.startswith("0::/")), "")
    # In a container the path of the group may be that of the host, and only the top is there.
    for group in {folder, *(folder / parent for parent in (pathlib.PurePath(own), *pathlib.PurePath(own).parents))}:
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            limits.append(int(quota) / int(period))
    quota, period = (_read(folder / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit():  # version 1; -1 for no limit
        limits.append(int(quota) / int(period))
    return max(1.0, min(limits)) if len(limits) > 1 else math.inf


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


class Worker:
    """A process that calls one function for one job at a time. Only `close` may be called from other threads.

    The process starts with the first job, and again with the first job after it died.

    Args:
      function: "module:name", called with a job, a dict. Jobs and answers hold what JSON can hold.
      limit_s: seconds that a job may take, 0 for no limit; may be changed between jobs. Time in which the calling process
        is stopped (Ctrl-Z, a closed laptop) does not count.
    """

    def __init__(self, function: str, limit_s: float = 0):
        self._function, self.limit_s = function, limit_s
        self._process: subprocess.Popen[str] | None = None
        self._closed, self._lock = False, threading.Lock()

    def call(self, job: dict) -> dict | Failure:
        """Returns the function's answer to a job. Raises: StopRun if the function did."""
        with self._lock:
            if self._closed:
                return Failure("its worker was closed")
            process = self._process = self._process or _start_process(self._function)
        reason = ""
        try:
            line = call_with_limit(lambda: _exchange(process, json.dumps(job)), self.limit_s)
        except TimeLimitError as error:
            line, reason = "", str(error)
            process.kill()
        if not line.endswith("\n"):
            self._process = None
            code = _end_process(process, patience_s=5)
            return Failure(reason or _cause_of_death(code))
        status, answer = json.loads(line)
        if status == "stop":
            raise StopRun(answer)
        return answer if status == "answer" else Failure(answer)

    def close(self) -> None:
        """Kills the process, whatever it is doing; later calls return a Failure."""
        with self._lock:
            self._closed, process = True, self._process
        if process is not None:
            _end_process(process)


def run(function: str, jobs: Iterable[dict], workers: int, limit_s: float = 0) -> Iterator[tuple[dict, dict | Failure]]:
    """Calls a function for every job in several processes, and yields pairs (job, answer) as they complete.

    Closing the iterator early kills the processes. With one worker, the pairs come in the order of the jobs.

    Args:
      function: see Worker.
      jobs: consumed one by one as workers become free.
      workers: number of processes, 0 for one per core.
      limit_s: see Worker.

    Raises:
      StopRun: the function raised it.
    """
    jobs, lock = iter(jobs), threading.Lock()
    results: _Results = queue.SimpleQueue()
    crew = [Worker(function, limit_s) for _ in range(workers or available_cores())]
    stopping = threading.Event()

    def feed(worker):
        """Puts the results of one worker, job by job until none is left, and None at its end."""
        try:
            while not stopping.is_set():
                with lock:
                    job = next(jobs, None)
                if job is None:
                    break
                results.put((job, worker.call(job)))
        except BaseException as error:  # passed on to the caller of `run`, where it is raised
            results.put(error)
        finally:
            worker.close()
            results.put(None)

    threads = [threading.Thread(target=feed, args=(worker,), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        for result in _until_all_ended(results, len(crew)):
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopping.set()
        for worker in crew:
            worker.close()
        for thread in threads:
            with contextlib.suppress(RuntimeError):  # an interrupt came before the thread had started
                thread.join()


# What the threads of `run` report: a job with its answer, an error that ends the run, or None, the thread's end.
_Results = queue.SimpleQueue[tuple[dict, dict | Failure] | BaseException | None]


def _until_all_ended(results: _Results, num_threads: int) -> Iterator[tuple[dict, dict | Failure] | BaseException]:
    while num_threads:
        try:
            item = results.get(timeout=1)  # a wait without an end may miss a signal that comes just before it
        except queue.Empty:
            continue
        if item is None:
            num_threads -= 1
        else:
            yield item


def _start_process(function: str) -> subprocess.Popen[str]:
    """Starts `serve` in a Python process with this one's import path; jobs and answers pass through its pipes.

    Not by multiprocessing, nor by a pool on top of it: fork is unsafe once there are threads (JAX and Grain have some), spawn
    and forkserver run the caller's script again, which breaks scripts without a __main__ guard and `python -`, and semaphores
    that the processes share outlive a caller that is killed.
    """
    with signals_blocked():
        return subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({function!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )


def _exchange(process, line):
    """Sends a line and returns the answer's line, without its end if the process dies."""
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except (BrokenPipeError, ValueError):  # ValueError: the pipes were closed by another thread
        return ""


def _end_process(process, patience_s=0.0):
    """Waits for a process, kills it after `patience_s` seconds, and returns its exit code."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    return process.returncode


def _cause_of_death(code):
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def serve(function: str) -> None:
    """Answers each line of stdin, a job, with a line on stdout, and ends with stdin. Runs in the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems that cannot block it at the start
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    jobs: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        job = jobs.get()
        try:
            message = ["answer", call(job)]
        except StopRun as error:
            message = ["stop", str(error)]
        except Exception as error:  # the job's own problem: recorded by its name and text
            message = ["failure", f"{type(error).__name__}: {error}"]
        answers.write(json.dumps(message) + "\n")
        answers.flush()


def _listen(jobs):
    for line in sys.stdin:
        jobs.put(json.loads(line))
    # The caller has ended; a decoder that hangs must not keep this process alive.
    os._exit(0)
