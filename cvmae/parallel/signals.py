"""Signals that end a command: by an error that reaches the main thread, or at once."""

import contextlib
import dataclasses
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

AGAIN_S = 0.02  # until a signal comes again whose error was lost


@dataclasses.dataclass
class _Sent:
    """The signal that an error was raised for, as the error's attribute `sent`; `is_lost`: the error went no further."""

    number: int
    is_lost: bool = False


def raising(error: Callable[[], BaseException], once: bool = False) -> Callable[[int, FrameType | None], None]:
    """Returns a handler that raises an error in the main thread, as Python's own handler does at Ctrl-C.

    Args:
      error: makes the error.
      once: True ignores further signals, so that nothing disturbs the end that the first one began.
    """
    repeat_lost_signals()
    sent: _Sent | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal sent
        if once and sent is not None and not sent.is_lost:
            return
        raised, sent = error(), _Sent(number)
        raised.sent = sent  # type: ignore[attr-defined]
        raise raised

    return handle


def repeat_lost_signals() -> None:
    """Lets a signal come again, after AGAIN_S, whose error did not reach the main thread: of `raising`, or KeyboardInterrupt.

    Python lets no error out of a finalizer, nor out of what it calls at a garbage collection or for an object that is gone, where
    JAX runs code of its own: it hands the error to `sys.unraisablehook` and continues.
    """
    if not isinstance(sys.unraisablehook, _RepeatingHook):
        sys.unraisablehook = _RepeatingHook(sys.unraisablehook)


class _RepeatingHook:
    """A `sys.unraisablehook` that sends the signal of an error again, and passes other errors on."""

    def __init__(self, other: Callable):
        self._other = other

    def __call__(self, unraisable) -> None:
        error = unraisable.exc_value
        sent = getattr(error, "sent", None)
        if type(error) is KeyboardInterrupt and sent is None:
            sent = _Sent(signal.SIGINT)  # of Python's own handler
        if not isinstance(sent, _Sent):
            self._other(unraisable)
            return
        sent.is_lost = True
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), sent.number))
        timer.daemon = True
        timer.start()


class Ended(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in a block of `ending`."""

    sent: _Sent


@contextlib.contextmanager
def ending(keeps: str, grace_s: float = 0.0):
    """Ends this process at Ctrl-C (130) and SIGTERM (143), with one line that ends with `keeps`; for the main thread of a command.

    The block is left by `Ended`, so that what it has open is closed. Where that takes more than grace_s seconds, for example until a
    compiler returns, or at a second signal, the process ends at once. With 0 seconds the block is not left, and what runs hears
    nothing of signals: libtpu would print a trace of its own.
    """
    causes = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def leave(number: int) -> NoReturn:
        print(f"error: {causes[signal.Signals(number)]}; {keeps}", file=sys.stderr, flush=True)
        leave_now(128 + number)

    def watch() -> None:
        number = next(number for number in iter(lambda: os.read(reader, 1)[0], None) if number in causes)
        select.select([reader], [], [], grace_s)
        leave(number)

    handler = raising(Ended, once=True) if grace_s else lambda *_: None
    for number in causes:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell starts a command in the background deaf to Ctrl-C
            signal.signal(number, handler)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except Ended as error:
        leave(error.sent.number)


def leave_now(code: int) -> NoReturn:
    """Ends this process without the interpreter's shutdown, which crashes where a thread of JAX still compiles."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
