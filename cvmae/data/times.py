"""Times of a table that say which part of a video is used: what is a time, what is an open end, and what is neither."""

import math
from collections.abc import Iterable

from cvmae.data.label_texts import EMPTY

# Seconds. A clip of a few seconds is looked for in a part, so most parts are shorter, unless they are in milliseconds or frames.
_LONG = 600


class TimeError(ValueError):
    """A text that gives no time; the message names the row and the remedy."""


def parse_part(where: str, start, end) -> tuple[float | None, float | None]:
    """Returns the start and the end of the part of a video, in seconds; None: open.

    Args:
      where: the place of the row, "file:line".
      start, end: numbers, texts or None, as a table has them; an empty text and the other words of `label_texts.EMPTY` mean open.

    Raises:
      TimeError: one of them is no time, or the part is empty.
    """
    first, last = _seconds(where, "start", start), _seconds(where, "end", end)
    if (first or 0) < 0 or (last is not None and last <= (first or 0)):
        raise TimeError(f"{where}: start {first} and end {last} are not 0 <= start < end; give seconds or leave them empty")
    return first, last


def part_notes(spans: Iterable[tuple[float | None, float | None]]) -> list[str]:
    """Returns a line if most parts that end somewhere last so long that their times may be no seconds; [] otherwise.

    Args:
      spans: (start, end) of every row, see `parse_part`.
    """
    ended = [(start or 0.0, end) for start, end in spans if end is not None]
    lengthy = [(start, end) for start, end in ended if end - start > _LONG]
    if 2 * len(lengthy) <= len(ended):
        return []
    start, end = lengthy[0]
    return [
        f"{len(lengthy):,} of {len(ended):,} parts with an end last more than {_LONG // 60} minutes, such as {start:g} to {end:g}: start and "
        "end are in seconds; divide milliseconds by 1000, and frames by their rate"
    ]


def _seconds(where: str, field: str, value) -> float | None:
    text = "" if value is None else str(value).strip()
    if text.lower() in EMPTY:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or "_" in text:
        raise TimeError(f"{where}: {field} is {text[:40]!r}; give seconds, such as 1.5, or leave it empty")
    return seconds
