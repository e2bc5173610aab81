"""Preemption: SIGTERM and the first Ctrl-C ask the loop to stop after the step that runs; the second Ctrl-C stops at once.

Outside of training, where what is done so far is on disk already, `ending_on_sigterm` lets SIGTERM end the process in order.

In a run of several processes, a signal to any of them stops all at the same step: JAX's preemption service, which listens to
SIGTERM itself, tells the others, and they agree on the next step that none has passed.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time

from jax.experimental import multihost_utils

from cvmae.parallel import processes
from cvmae.parallel.signals import raising

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended, as shells count it
TERMINATED = 143  # and that SIGTERM ended
GRACE_S = 5.0  # for an orderly end after the second Ctrl-C
SAME_S = 0.5  # a Ctrl-C so soon after SIGTERM is one request: scripts send SIGTERM where a terminal sends Ctrl-C to all
MERGED_S = 0.3  # for Python's handler to run a second time after the second Ctrl-C

_WAITING: list[threading.Event] = []  # of the blocks that are open, one inside the other: a signal asks all of them


class _Request:
    """The first signal that asked to stop, and its time."""

    def __init__(self, number: int):
        self._number, self._time = number, time.monotonic()

    def is_repeated_by(self, number: int) -> bool:
        """Returns True if a signal that comes now asks for a second time, to stop at once."""
        is_same = self._number == signal.SIGTERM and time.monotonic() - self._time < SAME_S
        return number == signal.SIGINT and not is_same


class SignalWatcher:
    """Answers signals at once, also while the main thread compiles and runs no Python.

    Python's own handlers wait for the main thread to come back from C++, which for a large model takes minutes. The number of a
    signal is written into a socket by the interpreter's C handler; a thread reads it there.

    Attributes:
      interrupted: True once a second Ctrl-C has raised KeyboardInterrupt. Python's handler runs once for several signals that came
        before it could, so the watcher repeats the second until then.
    """

    def __init__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._closed = threading.Event()
        self.interrupted = False
        self._main = threading.get_ident()  # it opens the block
        self._previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        request: _Request | None = None
        while received := self._reader.recv(1):
            number = received[0]
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if request is None:
                request = _Request(number)
                again = "; Ctrl-C again to stop now, without saving" if number == signal.SIGINT else ""
                print(f"\nstopping: saving after this step{again}", file=sys.stderr, flush=True)
            elif request.is_repeated_by(number):
                print("\nstopping now, without saving", file=sys.stderr, flush=True)
                self._end_within_grace()

    def _end_within_grace(self) -> None:
        """Waits for the block to end, repeats an interrupt that Python merged with the first, and ends the process in the end."""
        end = time.monotonic() + GRACE_S
        while not self._closed.wait(min(MERGED_S, GRACE_S)):
            if time.monotonic() >= end:
                _exit_now()
            if not self.interrupted:
                signal.pthread_kill(self._main, signal.SIGINT)

    def close(self) -> None:
        """Gives the signals back."""
        self._closed.set()
        signal.set_wakeup_fd(self._previous)
        self._writer.close()
        self._thread.join()
        self._reader.close()


_watcher: SignalWatcher | None = None  # of the outermost open block


def _exit_now() -> None:
    """Ends the process while its main thread is in C++, where an exception has no way out; its children end too."""
    for child in multiprocessing.active_children():
        child.kill()
    print("the same command resumes from the newest checkpoint", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def stop_requested():
    """Yields a function of the step that returns True when the run is to stop; a second Ctrl-C raises KeyboardInterrupt.

    To be called at every step, in a run of several processes. Outside the main thread of a single process it never returns True. A
    block inside another one hears the signals, and the outer one acts on them when the inner one is over.
    """
    asked, alone = threading.Event(), processes.is_single_process()
    request: _Request | None = None  # of this block

    def stop(step: int) -> bool:
        return asked.is_set() if alone else multihost_utils.reached_preemption_sync_point(step)

    def ask(number, frame):
        """Handles a signal: the first asks every open block to stop, a second Ctrl-C raises KeyboardInterrupt."""
        nonlocal request
        if request is not None and not request.is_repeated_by(number):
            return
        if asked.is_set() and number == signal.SIGINT:
            if _watcher is not None:
                _watcher.interrupted = True
            raise KeyboardInterrupt
        request = _Request(number)
        for event in _WAITING:
            event.set()
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    global _watcher
    heard = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    outermost = not _WAITING
    if outermost:
        _watcher = SignalWatcher()
    _WAITING.append(asked)
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        _WAITING.remove(asked)
        for number, handler in before.items():
            signal.signal(number, handler)
        if outermost and _watcher is not None:
            _watcher.close()
            _watcher = None


@contextlib.contextmanager
def ending_on_sigterm():
    """Ends the block by SystemExit(TERMINATED) on SIGTERM, as Ctrl-C does by KeyboardInterrupt, so that workers and files are closed.

    Does nothing outside the main thread of a single process, and inside `stop_requested`, which acts on the signal itself.
    """
    if threading.current_thread() is not threading.main_thread() or not processes.is_single_process() or _WAITING:
        yield
        return

    # Launchers send several signals.
    before = signal.signal(signal.SIGTERM, raising(lambda: SystemExit(TERMINATED), once=True))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def default_termination() -> None:
    """Lets SIGTERM end the process again, where JAX's preemption service took it and the task does not ask that service."""
    if not processes.is_single_process() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
