"""Parser for the error of XLA's TPU compiler about a program that does not fit in memory."""

import dataclasses
import re

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Allocation:
    """An array in memory.

    Attributes:
      bytes: its size.
      shape: its type as XLA writes it.
      operator: the traced operation that it comes from; '' if unknown.
      line: the line of code; '' if unknown.
      count: of equal arrays in different layers.
    """

    bytes: int
    shape: str
    operator: str
    line: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A program that does not fit.

    Attributes:
      used: bytes per chip that it needs; 0 where the message does not say.
      available: bytes per chip; 0 where the message does not say.
      allocations: the largest first; empty where the compiler gave up before it allocated.
    """

    used: int
    available: int
    allocations: tuple[Allocation, ...]


def size_of(text: str) -> int:
    """Parses `13.79G`, `176.0K`, `512B` or `0` into bytes. Raises: ValueError, the text is no size."""
    match = re.fullmatch(r"([\d.]+)([KMGTB]?)B?", text)
    if match is None:
        raise ValueError(f"{text!r} is no size: expected a number and K, M, G, T or B")
    return round(float(match[1]) * _UNITS[match[2]])


def read_refusal(message: str) -> TooLarge | None:
    """Parses the text of an error; None where it is not about memory.

    Known forms: `Used 21.95G of 15.48G hbm`, followed by a list of allocations; `the total memory required for HLO temporaries
    (39.70G) exceeds available HBM (15.75G)` and `Requires 40.1G, has 15.7G available`, before anything is allocated.
    """
    if "RESOURCE_EXHAUSTED" not in message and "ran out of memory" not in message.lower():
        return None
    size = r"([\d.]+[KMGTB]?)"
    for form in (
        rf"Used {size} of {size} hbm",
        rf"temporaries \({size}\) exceeds available HBM \({size}\)",
        rf"Requires {size}, has {size} available",
    ):
        sizes = re.search(form, message)
        if sizes:
            return TooLarge(size_of(sizes[1]), size_of(sizes[2]), tuple(_allocations(message)))
    return TooLarge(0, 0, tuple(_allocations(message)))


def _allocations(message: str):
    """Yields the numbered allocations of the message."""
    for part in re.split(r"\n\s*\d+\. (?=Size: )", message)[1:]:
        field = {name: match[1] if (match := re.search(pattern, part)) else "" for name, pattern in _FIELDS.items()}
        file = re.search(r'source_file="([^"]*)" source_line=(\d+)', part)
        line = f"{file[1]}:{file[2]}" if file else ""
        yield Allocation(size_of(field["size"]), field["shape"], field["operator"], line)


_FIELDS = {"size": r"Size: ([\d.]+[KMGTB]?)", "shape": r"Shape: (\S+)", "operator": r'op_name="([^"]*)"'}
