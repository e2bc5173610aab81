"""What XLA's TPU compiler says when a program does not fit, as data."""

import dataclasses
import re

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One allocation: bytes, type as XLA writes it, and the traced operation and line of code that it is from ('' if unknown)."""

    bytes: int
    shape: str
    operator: str
    line: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """A refusal. `used` and `available`: bytes of one chip, 0 where the message does not say; allocations: the largest first."""

    used: int
    available: int
    allocations: tuple[Allocation, ...]


def size_of(text: str) -> int:
    """Bytes of `13.79G`, `176.0K`, `512B` or `0`."""
    number, unit = re.fullmatch(r"([\d.]+)([KMGTB]?)B?", text).groups()
    return round(float(number) * _UNITS[unit])


def read_refusal(message: str) -> TooLarge | None:
    """The refusal in the text of an error; None where the error is another one.

    Known forms: `Used 21.95G of 15.48G hbm`, with a list of allocations behind it; `the total memory required for HLO temporaries
    (39.70G) exceeds available HBM (15.75G)` and `Requires 40.1G, has 15.7G available`, which come before anything is allocated.
    """
    if "RESOURCE_EXHAUSTED" not in message and "ran out of memory" not in message.lower():
        return None
    size = r"([\d.]+[KMGTB]?)"
    for form in (
        rf"Used {size} of {size} hbm",
        rf"temporaries \({size}\) exceeds available HBM \({size}\)",
        rf"Requires {size}, has {size} available",
    ):
        found = re.search(form, message)
        if found:
            return TooLarge(size_of(found[1]), size_of(found[2]), tuple(_allocations(message)))
    return TooLarge(0, 0, tuple(_allocations(message)))


def _allocations(message: str):
    """The numbered allocations of the report."""
    for part in re.split(r"\n\s*\d+\. (?=Size: )", message)[1:]:
        field = {name: found[1] if (found := re.search(pattern, part)) else "" for name, pattern in _FIELDS.items()}
        file = re.search(r'source_file="([^"]*)" source_line=(\d+)', part)
        line = f"{file[1]}:{file[2]}" if file else ""
        yield Allocation(size_of(field["size"]), field["shape"], field["operator"], line)


_FIELDS = {"size": r"Size: ([\d.]+[KMGTB]?)", "shape": r"Shape: (\S+)", "operator": r'op_name="([^"]*)"'}
