"""A time limit for a call that may hang inside C code."""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")
PARTS = 10  # that a limit is waited for in: a process that was stopped, or a laptop that was closed, has lost one of them


class TimeLimitError(Exception):
    """A call did not come back within its limit."""


class _Worker:
    """One daemon thread that runs calls, one at a time, for as long as this object lives."""

    def __init__(self):
        self._calls = queue.SimpleQueue()
        # The thread holds the queue, not this object: when the owner is gone, a last None ends the thread.
        threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="cvmae-limited-call").start()
        weakref.finalize(self, self._calls.put, None).atexit = False

    def run(self, fn, seconds):
        answer = queue.SimpleQueue()
        self._calls.put((fn, answer))
        value, error = _wait(answer, seconds)
        if error is not None:
            raise error
        return value


def _wait(answer, seconds):
    """What comes into a queue. Raises: queue.Empty after so many seconds in which this process could run."""
    for part in range(PARTS):
        try:
            return answer.get(timeout=seconds / PARTS)
        except queue.Empty:
            if part == PARTS - 1:
                raise


def _serve(calls):
    while (call := calls.get()) is not None:
        fn, answer = call
        try:
            answer.put((fn(), None))
        except BaseException as error:  # handed over to the caller, who raises it
            answer.put((None, error))
        del call, fn, answer  # an idle thread must not keep the last clip alive


_local = threading.local()


def call_with_limit(fn: Callable[[], R], seconds: float) -> R:
    """fn(), cut off after `seconds` (0 or less: no limit, called directly).

    The call runs on a daemon thread that belongs to the calling thread and is used again and again. When the limit
    passes, that thread is abandoned with whatever it hangs in, and the next call starts a new one. A daemon thread, and
    not an executor, because an executor joins its threads at exit and so would hang there after all.

    Raises: TimeLimitError, or what fn raises.
    """
    if seconds <= 0:
        return fn()
    worker = getattr(_local, "worker", None) or _Worker()
    _local.worker = worker
    try:
        return worker.run(fn, seconds)
    except queue.Empty:
        _local.worker = None
        raise TimeLimitError(f"no answer within {seconds:g} s") from None
