"""Signals that end a command: by an error that reaches the main thread, or at once."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

AGAIN_S = 0.02  # until a signal comes again that came where no error has a way out


def raising(error: Callable[[], BaseException]) -> Callable[[int, FrameType | None], None]:
    """Returns a handler that raises an error in the main thread, as Python's own handler does at Ctrl-C.

    Where Python would only print the error and continue, the signal comes again a moment later.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not postponed(number, frame):
            raise error()

    return handle


def postponed(number: int, frame: FrameType | None) -> bool:
    """Returns True where an error of a handler would be lost, and then sends its signal again, after AGAIN_S.

    Python lets no error out of finalizers, nor out of what runs at a garbage collection.
    """
    swallowing = {getattr(callback, "__code__", None) for callback in gc.callbacks}  # JAX's is one of them
    while frame is not None and frame.f_code not in swallowing and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    if frame is None:
        return False
    timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
    return True


def interrupt_surely() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt also where JAX collects garbage; to be called in the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell started this process deaf to it
        signal.signal(signal.SIGINT, raising(KeyboardInterrupt))


def leave_at_signals(keeps: str) -> None:
    """Ends this process at once at Ctrl-C (130) and SIGTERM (143), with a line that ends with `keeps`; for the main thread.

    Python alone would wait until a compiler returns, which takes minutes, and libtpu would print a trace of its own.
    """
    signals = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in signals:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # what is written to the pipe counts

    def wait() -> None:
        number = signal.Signals(os.read(reader, 1)[0])
        print(f"error: {signals[number]}; {keeps}", file=sys.stderr, flush=True)
        leave_now(128 + number)

    threading.Thread(target=wait, daemon=True).start()


def leave_now(code: int) -> NoReturn:
    """Ends this process without the interpreter's shutdown, which crashes where a thread of JAX still compiles."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
