"""Filters for what Orbax prints beside the errors that it raises: tracebacks of its tasks, and warnings at every step."""

import contextlib
import logging
import sys
from collections.abc import Iterator

_next_hook: list = []


def mute() -> None:
    """Mutes, for the rest of the process, errors that Orbax both logs and raises, and its failed asyncio tasks."""
    for name, keeps in (("absl", _is_news), ("asyncio", _is_not_of_orbax)):
        logging.getLogger(name).addFilter(keeps)  # the same function is added once
    if not _next_hook:
        _next_hook.append(sys.unraisablehook)
        sys.unraisablehook = _hook


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mutes everything that Orbax logs in the block, and calls `mute`."""
    mute()
    logger = logging.getLogger("absl")
    logger.addFilter(_is_of_others)
    try:
        yield
    finally:
        logger.removeFilter(_is_of_others)


def _is_of_others(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for what Orbax logs on the way, and for exceptions, which it also raises."""
    return "orbax" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns False for tasks of Orbax that failed beside the first: the error of the first is raised."""
    return "orbax" not in record.getMessage()


def _hook(unraisable) -> None:
    # TensorStore finishes reads and writes of a loop that Orbax closed at the first error.
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        _next_hook[0](unraisable)
