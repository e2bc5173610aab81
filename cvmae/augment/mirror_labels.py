"""Which class a clip has once it is mirrored, read off the names of classes."""

import re
from collections.abc import Sequence

_SIDE = re.compile(r"\b(left|right)\b")
_OTHER = {"left": "right", "right": "left"}


def mirrored_name(name: str) -> str:
    """The name with the words left and right exchanged: whole words, in lower case."""
    return _SIDE.sub(lambda side: _OTHER[side.group()], name.lower())


def mirror_table(class_names: Sequence[str]) -> tuple[int, ...]:
    """For each class the class of its mirrored clips, for label-swapping flips (Something-Something).

    A class whose name has neither word is its own. -1: the name has one, but no class has the mirrored name, so clips of this
    class must not be flipped. Case does not matter.

    Raises:
      ValueError: two names are the same but for case, so a mirrored name would be ambiguous.
    """
    index: dict[str, int] = {}
    for label, name in enumerate(class_names):
        first = index.setdefault(name.lower(), label)
        if first != label:
            raise ValueError(f"classes {first} and {label} have one name, {name!r}: give each class a name of its own")
    return tuple(index.get(mirrored_name(name), -1) for name in class_names)
