"""What Orbax leaves on stderr where it cannot read or write, beside the error that it raises: pages that would hide one line.

It also logs every step of its way at the level of a warning.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from cvmae.files import storage_error_number

_next_hook: list = []


def mute() -> None:
    """Leaves out, from now on, what Orbax logs and what asyncio reports of its tasks; errors of other causes are still logged."""
    for name, keeps in (("absl", _is_news), ("asyncio", _is_not_of_orbax)):
        logging.getLogger(name).addFilter(keeps)  # the same function is added once
    if not _next_hook:
        _next_hook.append(sys.unraisablehook)
        sys.unraisablehook = _hook


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mutes in the block all that Orbax logs, and what `mute` mutes from now on."""
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
    """Returns False for what Orbax logs on the way, and for errors of the storage, which it also raises."""
    if "orbax" not in record.pathname:
        return True
    error = record.exc_info[1] if record.exc_info else None
    return record.levelno >= logging.ERROR and (error is None or storage_error_number(error) is None)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns False for tasks of Orbax whose errors nobody fetched: they failed beside the first, which is raised."""
    return "orbax" not in record.getMessage()


def _hook(unraisable) -> None:
    # TensorStore finishes reads and writes of a loop that Orbax closed at the first error.
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        _next_hook[0](unraisable)
