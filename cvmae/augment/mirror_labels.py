"""Classes of mirrored clips, derived from the names of the classes."""

import re
from collections.abc import Sequence

_SIDE = re.compile(r"\b(left|right)\b")
_OTHER = {"left": "right", "right": "left"}


def mirrored_name(name: str) -> str:
    """Exchanges the words left and right in a class name; the result is in lower case."""
    return _SIDE.sub(lambda side: _OTHER[side.group()], name.lower())


def mirror_table(class_names: Sequence[str]) -> tuple[int, ...]:
    """Returns for each class the class of its mirrored clips, for flips that change the label (Something-Something).

    A class whose name has neither of the words left and right is its own mirror. A class whose mirrored name no class has gets
    -1: its clips must not be flipped. Case does not matter.

    Raises:
      ValueError: two names are the same but for case, so a mirrored name would be ambiguous.
    """
    index: dict[str, int] = {}
    for label, name in enumerate(class_names):
        first = index.setdefault(name.lower(), label)
        if first != label:
            raise ValueError(f"classes {first} and {label} have one name, {name!r}: give each class a name of its own")
    return tuple(index.get(mirrored_name(name), -1) for name in class_names)
