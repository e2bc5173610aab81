"""Preemption: SIGTERM and the first Ctrl-C ask the loop to stop after the step that runs.

In a run of several processes, a signal to any of them stops all at the same step: JAX's preemption service, which listens to
SIGTERM itself, tells the others, and they agree on the next step that none has passed.
"""

import contextlib
import os
import signal
import threading

from jax.experimental import multihost_utils

from cvmae.parallel import processes

_WAITING: list[threading.Event] = []  # of the blocks that are open, one inside the other: a signal asks all of them


@contextlib.contextmanager
def stop_requested():
    """Gives a function of the step that says whether to stop; a second Ctrl-C interrupts at once.

    To be called at every step, in a run of several processes. Outside the main thread of a lone process: never. A block inside
    another hears the signals, and the outer one knows of them when the inner one is over.
    """
    asked, alone = threading.Event(), processes.is_single_process()

    def stop(step: int) -> bool:
        return asked.is_set() if alone else multihost_utils.reached_preemption_sync_point(step)

    def ask(number, frame):
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        for event in _WAITING:
            event.set()
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    _WAITING.append(asked)
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stop
    finally:
        _WAITING.remove(asked)
        for number, handler in before.items():
            signal.signal(number, handler)


def default_termination() -> None:
    """Lets SIGTERM end the process again, where JAX's preemption service took it and nobody asks that service."""
    if not processes.is_single_process() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
