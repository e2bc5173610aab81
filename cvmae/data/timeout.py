"""Time limit for calls that may hang inside C code."""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")
# A limit is waited for in this many intervals: a stopped process or a closed laptop then loses one of them and not the call.
INTERVALS = 10


class TimeLimitError(Exception):
    """A call did not return within its limit."""


class _Worker:
    """Daemon thread that runs calls one at a time, for as long as this object exists."""

    def __init__(self):
        self._calls = queue.SimpleQueue()
        # The thread holds the queue, not this object: when this object is collected, a last None ends the thread.
        threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="cvmae-limited-call").start()
        weakref.finalize(self, self._calls.put, None).atexit = False

    def run(self, fn, seconds):
        results = queue.SimpleQueue()
        self._calls.put((fn, results))
        value, error = _wait(results, seconds)
        if error is not None:
            raise error
        return value


def _wait(results, seconds):
    """Returns the next item of a queue. Raises queue.Empty after `seconds` during which this process could run."""
    for interval in range(INTERVALS):
        try:
            return results.get(timeout=seconds / INTERVALS)
        except queue.Empty:
            if interval == INTERVALS - 1:
                raise


def _serve(calls):
    while (call := calls.get()) is not None:
        fn, results = call
        try:
            results.put((fn(), None))
        except BaseException as error:  # raised again in the calling thread
            results.put((None, error))
        del call, fn, results  # an idle thread must not keep the last clip alive


_local = threading.local()


def call_with_limit(fn: Callable[[], R], seconds: float) -> R:
    """Returns fn(), or gives up after `seconds` (0 or less: no limit, fn is called directly).

    fn runs on a daemon thread that belongs to the calling thread and is reused. When the limit passes, that thread is
    abandoned with the call it hangs in, and the next call starts a new one. It is a daemon thread, not an executor, because
    an executor joins its threads at exit and so would hang there after all.

    Raises:
      TimeLimitError: fn did not return in time. Exceptions of fn are passed on.
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
