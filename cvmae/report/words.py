"""Numbers and values as people read them."""

import datetime
import json
import math
import re

SHARE = re.compile(r"accuracy|(^|[/_])(top|r)\d+($|/)|(^|/)map$|_1nn$|_(share|right)$")


def is_share(name: str) -> bool:
    """Whether a number of this name is one of 0 to 1 that people read in %."""
    return bool(SHARE.search(name))


def number(value: float, name: str = "") -> str:
    """`86.4 %` for a share (the space is none to break a line at), else four digits: `0.6435`, `1200`, `7.6e-09`."""
    if is_share(name) and math.isfinite(value):
        return f"{100 * value:.1f}\u00a0%"
    return f"{value:,.0f}".replace(",", "\u2009") if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def anything(value, name: str = "") -> str:
    """Any value that JSON knows, on one line."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value, name)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def field(value) -> str:
    """A value of a config, much as the command line takes it; long fractions are cut."""
    if isinstance(value, list):
        return f"({', '.join(map(field, value))})"
    if isinstance(value, float):
        return f"{value:.6g}" if len(f"{value:.6g}") < len(repr(value)) - 2 else repr(value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """`6 min 8 s`, `2 h 10 min`, `12.5 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(text) -> str:
    """`2026-11-23 10:02 UTC` of a time in ISO 8601; what is none stays as it is."""
    try:
        found = datetime.datetime.fromisoformat(str(text))
        return f"{found.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return str(text)
