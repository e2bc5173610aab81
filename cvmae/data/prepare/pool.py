"""Processes that call a function for one job after the other, and whose death costs no more than the job they had."""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from cvmae.data.processes import cores, start_python


class StopRun(Exception):
    """Raised by the function of a job: the fault is not the job's, the rest would fail as well."""


class Failure(str):
    """Why a job has no answer: its process died, took too long, or met an error that the function does not know."""


class Worker:
    """One such process. Not for several threads at a time.

    function: "module:name", called with the job, a dict; jobs and answers are what JSON holds. limit_s: seconds for a job,
    0 for no limit; may be changed between jobs. The process starts with the first job, and again with the next one after it
    died.
    """

    def __init__(self, function: str, limit_s: float = 0):
        self._function, self.limit_s = function, limit_s
        self._process, self._closed, self._lock = None, False, threading.Lock()

    def call(self, job: dict) -> dict | Failure:
        """The answer. Raises: StopRun if the function did."""
        with self._lock:
            if self._closed:
                return Failure("there is nobody to do it any more")
            process = self._process = self._process or start_python(f"from {__name__} import serve; serve({self._function!r})")
        late = threading.Event()
        timer = threading.Timer(self.limit_s, lambda: (late.set(), process.kill())) if self.limit_s else None
        if timer:
            timer.daemon = True
            timer.start()
        line = _exchange(process, json.dumps(job))
        if timer:
            timer.cancel()
        if not line.endswith("\n"):
            self._process = None
            code = _end(process, patience_s=5)
            return Failure(f"no answer within {self.limit_s:g} s" if late.is_set() else _cause_of_death(code))
        kind, answer = json.loads(line)
        if kind == "stop":
            raise StopRun(answer)
        return answer if kind == "answer" else Failure(answer)

    def close(self) -> None:
        """Ends the process, whatever it does; from any thread."""
        with self._lock:
            self._closed, process = True, self._process
        if process is not None:
            _end(process)


def _exchange(process, line):
    """The answer to a line; what there is of it if the process dies."""
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except (BrokenPipeError, ValueError):  # ValueError: the pipes were closed from another thread
        return ""


def _end(process, patience_s=0.0):
    """Ends a process that has not ended by itself within a time; its exit code."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            pipe.close()
        except BrokenPipeError:
            pass
    return process.returncode


def run(function: str, jobs: Iterable[dict], workers: int, limit_s: float = 0) -> Iterator[tuple[dict, dict | Failure]]:
    """Pairs of a job and its answer as they come, from `workers` processes (0: one per core).

    function, limit_s: see Worker. Leaving the loop early ends the processes. Raises: StopRun if the function did.
    """
    jobs, lock, done = iter(jobs), threading.Lock(), queue.SimpleQueue()
    crew = [Worker(function, limit_s) for _ in range(workers or cores())]
    stopping = threading.Event()

    def feed(worker):
        try:
            while not stopping.is_set():
                with lock:
                    job = next(jobs, None)
                if job is None:
                    break
                done.put((job, worker.call(job)))
        except BaseException as error:  # handed over to the caller, who raises it
            done.put((None, error))
        finally:
            worker.close()
            done.put(None)

    threads = [threading.Thread(target=feed, args=(worker,), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        for item in _until_each_ended(done, len(crew)):
            if item[0] is None:
                raise item[1]
            yield item
    finally:
        stopping.set()
        for worker in crew:
            worker.close()
        for thread in threads:
            thread.join()


def _until_each_ended(done, count):
    while count:
        item = done.get()
        if item is None:
            count -= 1
        else:
            yield item


def _cause_of_death(code):
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def serve(function: str) -> None:
    """The process: answers each line of stdin, a job, with a line on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who started us ends us
    # What a library may print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    jobs = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        job = jobs.get()
        try:
            answer = ["answer", call(job)]
        except StopRun as error:
            answer = ["stop", str(error)]
        except Exception as error:  # the job's own trouble, told with its name
            answer = ["failure", f"{type(error).__name__}: {error}"]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(jobs):
    for line in sys.stdin:
        jobs.put(json.loads(line))
    # Nobody is there any more to answer to; a decoder that hangs must not stay behind.
    os._exit(0)
