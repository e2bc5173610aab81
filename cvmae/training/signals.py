"""Preemption: SIGTERM and the first Ctrl-C ask the loop to stop after the step that runs."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def stop_requested():
    """Gives a function that says whether to stop; a second Ctrl-C interrupts at once. Outside the main thread: never."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number, frame):
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
