"""Reads JSON files that stand beside weights, and checks their fields by type and range."""

import math
import pathlib
from typing import TypeGuard

from cvmae.data.text_files import RepeatedKeyError, parse_json
from cvmae.interop.pretrained import WeightsError

LARGEST = 1 << 16  # far above any model; beyond it a damaged number would take all of the memory


class Fields:
    """The fields of config.json, checked as they are read.

    Attributes:
      config: the JSON object.
      problems: fields of another type or out of range, one a line.
      absent: names of whole numbers that were asked for and are not in the object, so that a default was returned.
    """

    def __init__(self, config: dict):
        self.config = config
        self.problems: list[str] = []
        self.absent: set[str] = set()

    def _expect(self, field: str, what: str, default):
        remedy = f"correct it, or remove it if transformers' default ({default!r}) is meant"
        self.problems.append(f"{field} is {short(self.config[field])}; expected {what}: {remedy}")
        return default

    def whole(self, field: str, default: int) -> int:
        if field not in self.config:
            self.absent.add(field)
        value = self.config.get(field, default)
        return value if _is_whole(value) else self._expect(field, f"a whole number from 1 to {LARGEST}", default)

    def flag(self, field: str, default: bool) -> bool:
        value = self.config.get(field, default)
        return value if isinstance(value, bool) else self._expect(field, "true or false", default)

    def eps(self, default: float) -> float:
        value = self.config.get("layer_norm_eps", default)
        return float(value) if is_number(value) and 0 < value < 1 else self._expect("layer_norm_eps", "a number in 0..1", default)

    def number(self, field: str, default: float) -> float:
        value = self.config.get(field, default)
        is_positive = is_number(value) and 0 < value <= LARGEST
        return float(value) if is_positive else self._expect(field, f"a number above 0, at most {LARGEST}", default)

    def frame_patch(self, field: str, default: int) -> int:
        """Returns the side of a patch that is recorded as [1, side, side], of one frame."""
        value = self.config.get(field, [1, default, default])
        if isinstance(value, list) and len(value) == 3 and all(map(_is_whole, value)) and value[0] == 1 and value[1] == value[2]:
            return value[1]
        self._expect(field, "[1, side, side], a square patch of one frame", [1, default, default])
        return default

    def processed_sides(self, field: str) -> tuple[int, int] | None:
        """Returns (height, width) of a field of an image processor, one number or an object; None if it fixes not both."""
        value = self.config.get(field)
        height, width = (value.get("height"), value.get("width")) if isinstance(value, dict) else (value, value)
        if height is None and width is None:
            return None
        if _is_whole(height) and _is_whole(width):
            return height, width
        what = f"a whole number from 1 to {LARGEST}, or height and width"
        self.problems.append(f"{field} is {short(value)}; expected {what}: correct it, or remove it if it is unknown")
        return None

    def sides(self, field: str, default: int) -> tuple[int, int]:
        """Returns (height, width) of a field that is one number or both."""
        value = self.config.get(field, default)
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) == 2 and all(map(_is_whole, sides)):
            return sides[0], sides[1]
        self._expect(field, f"a whole number from 1 to {LARGEST}, or two for height and width", default)
        return default, default


def _is_whole(value) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def is_number(value) -> bool:
    """Returns True for a finite number of JSON that is no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value) -> str:
    """Returns a value as it is written in Python, cut to 60 characters for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_json(file: pathlib.Path) -> dict | None:
    """Reads a JSON object; None if there is no such file. Raises: WeightsError, it is not one."""
    if not file.is_file():
        return None
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except RepeatedKeyError as error:
        raise WeightsError(str(file), [str(error)]) from error
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets in brackets
        raise WeightsError(str(file), [f"it is not JSON: {error}"]) from error
    if not isinstance(value, dict):
        raise WeightsError(str(file), ["it is not a JSON object"])
    return value
