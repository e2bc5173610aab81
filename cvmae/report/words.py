"""Numbers, config values, durations and task names as text for people."""

import datetime
import json
import math
import re

TASK_TITLES = {
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "linear": "Linear probe",
    "attentive": "Attentive probe",
    "knn": "Nearest neighbors",
    "retrieval": "Retrieval",
    "extract": "Feature extraction",
    "visualize": "Figures",
    "ablate": "Ablations",
}
# Sentences that explain numbers, by the beginning of the metric's name.
MEANINGS = {
    "gray_accuracy/": "The same clips, crops and masks without color. Color accounts for at most the difference.",
    "knn/": "The nearest labeled training clips vote for the class of a held-out clip; nothing is trained.",
    "effective_rank/": "The number of directions in which features of clips differ, at most their width. Near 1 they have collapsed.",
    "cka/": "1: both encoders arrange the clips alike, up to rotation and scale. 0: their arrangements are unrelated.",
}
FRACTION = re.compile(r"accuracy|(^|[/_])(top|r)\d+($|/)|(^|/)(map$|mAP($|/))|_1nn$|_(share|right)$")
COUNT = re.compile(
    r"(^|/)(clips|trained_on|files|queries|left_out|videos|written|rewritten|skipped|not_in_source|bytes|unreadable|unlabeled|windows|replaced_clips)$"
)


def is_fraction(name: str) -> bool:
    """Returns True if a metric of this name is a fraction in 0..1, which is shown in percent."""
    return bool(FRACTION.search(name))


def is_count(name: str) -> bool:
    """Returns True if a metric of this name is a count, which is shown without decimals."""
    return bool(COUNT.search(name))


def meaning(name: str) -> str:
    """Returns the sentence that explains a metric of this name; empty for those that need none."""
    return next((text for beginning, text in MEANINGS.items() if name.startswith(beginning)), "")


def number(value: float, name: str = "") -> str:
    """Formats a number: `86.4 %` for a fraction, no decimals for counts and other whole numbers, else four significant digits.

    Args:
      value: the number.
      name: the metric.
    """
    if is_fraction(name) and math.isfinite(value):
        return f"{100 * value:.1f}\u00a0%"
    if math.isfinite(value) and abs(value) < 1e15 and (is_count(name) or abs(value) >= 1000 or float(value).is_integer()):
        return f"{value:,.0f}".replace(",", "\u2009")  # a thin space that does not break at the end of a line
    return f"{value:.4g}"


def anything(value, name: str = "") -> str:
    """Formats any value of a JSON file on one line."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value, name)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def field(value) -> str:
    """Formats a config value much as the command line takes it; long fractions are rounded to six digits."""
    if isinstance(value, list):
        return f"({', '.join(map(field, value))})"
    if isinstance(value, float):
        return f"{value:.6g}" if len(f"{value:.6g}") < len(repr(value)) - 2 else repr(value)
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Formats a duration: `6 min 8 s`, `2 h 10 min`, `12.5 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(text) -> str:
    """Formats a time in ISO 8601 as `2026-11-23 10:02 UTC`; other text is returned as it is."""
    try:
        time = datetime.datetime.fromisoformat(str(text))
        return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return str(text)
