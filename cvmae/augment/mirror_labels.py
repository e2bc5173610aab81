"""Classes of mirrored clips, derived from the names of the classes."""

import re
from collections.abc import Sequence

import numpy as np

_OTHER = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
_SIDE = re.compile(rf"\b({'|'.join(_OTHER)})\b")


def mirrored_name(name: str) -> str:
    """Exchanges left and right, clockwise and counterclockwise in a class name; the result is in lower case."""
    return _SIDE.sub(lambda side: _OTHER[side.group()], name.lower())


def mirror_table(class_names: Sequence[str]) -> tuple[int, ...]:
    """Returns for each class the class of its mirrored clips, for flips that change the label (Something-Something, Jester).

    A class whose name has none of the words left, right, clockwise and counterclockwise is its own mirror. A class whose mirrored
    name no class has gets -1: its clips must not be flipped. Case does not matter.

    Raises:
      ValueError: two names are the same but for case, so a mirrored name would be ambiguous.
    """
    index: dict[str, int] = {}
    for label, name in enumerate(class_names):
        first = index.setdefault(name.lower(), label)
        if first != label:
            raise ValueError(f"classes {first} and {label} have one name, {name!r}: give each class a name of its own")
    return tuple(index.get(mirrored_name(name), -1) for name in class_names)


def mirror_label_sets(label_sets: np.ndarray, mirror: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns label sets with those of their mirrored clips, and for each of them the row of its mirrored set.

    Every class of a set is exchanged by itself. A set with a class that has no mirrored class gets -1: its clips must not be
    flipped.

    Args:
      label_sets: bool [S, C]; row s has True for each class of the set s.
      mirror: for each of the C classes that of its mirrored clips, or -1, see `mirror_table`.

    Returns:
      bool [S', C], the S sets and after them the mirrored sets that are not among these; and S' rows of it, or -1.
    """

    def mirrored(labels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({mirror[label] for label in labels}))

    numbers = [tuple(np.flatnonzero(row).tolist()) for row in np.asarray(label_sets, bool)]
    index = {labels: row for row, labels in enumerate(numbers)}
    for labels in map(mirrored, numbers):
        if -1 not in labels:
            index.setdefault(labels, len(index))
    table = np.zeros((len(index), np.shape(label_sets)[1]), bool)
    for labels, row in index.items():
        table[row, list(labels)] = True
    return table, tuple(index.get(mirrored(labels), -1) for labels in index)
