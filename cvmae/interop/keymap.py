"""What a key map is: tables that say where each array of someone else's file belongs in our parameters.

A map is data. Every key of a file must be named by one of its tables: `rules` (used), `tables` (fixed positions, checked
against ours) or `ignored` (with the reason). The loader in `weights.py` is the only code that reads them.
"""

import dataclasses
import re

import einops
import numpy as np

from cvmae.models import positions


def _copy(array):
    return array


def _linear(array):
    if array.ndim != 2:
        raise ValueError(f"a linear weight has 2 axes, not {array.ndim}")
    return array.T


def _conv(array):
    if array.ndim == 4:
        array = array[:, :, None]
    if array.ndim != 5:
        raise ValueError(f"a patch convolution has 4 or 5 axes, not {array.ndim}")
    return einops.rearrange(array, "out c t h w -> (t h w c) out")


def _token(array):
    if array.size != array.shape[-1]:
        raise ValueError("a token has one axis longer than 1, the last")
    return array.reshape(-1)


# copy: as it is. linear: torch's [out, in] to Flax's [in, out]. conv: a patch convolution [D, C, (t,) p, p] to the kernel
# [(t p p C), D] of the matrix product over `patchify`'s order. token: [1, 1, D] to [D].
TRANSFORMS = {"copy": _copy, "linear": _linear, "conv": _conv, "token": _token}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One array, or one in each block, of a file.

    Attributes:
      theirs: the key in the file; `{i}` stands for the number of a block.
      ours: the path in our parameters, parts joined by `/`, with the same `{i}`.
      transform: a name in `TRANSFORMS`.
    """

    theirs: str
    ours: str
    transform: str = "copy"


@dataclasses.dataclass(frozen=True)
class Table:
    """A fixed position table that a file stores and we compute: [1, cls + N, D] of a square grid.

    Attributes:
      theirs: the key in the file.
      branch: `encoder` or `decoder`, whose table it is.
      kind: of positions (`cvmae.models.positions.KINDS`).
    """

    theirs: str
    branch: str
    kind: str = "sincos2d"

    def difference(self, array: np.ndarray) -> float:
        """The largest difference from our table with a zero row for cls before it.

        Raises:
          ValueError: the shape is not that of a table of a square grid with a cls row.
        """
        side = round(max(0, array.shape[-2] - 1) ** 0.5) if array.ndim == 3 else 0
        if not side or array.shape[:2] != (1, 1 + side * side):
            raise ValueError(f"shape {list(array.shape)} is not [1, 1 + side², D], a cls row and a square grid")
        expected = positions.sincos2d(side, side, array.shape[-1])
        difference = np.abs(array[0, 1:].astype(np.float64) - expected).max()
        return float(max(difference, np.abs(array[0, 0]).max()))


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """All that is known of one kind of file.

    Attributes:
      kind: its name in configs and on the command line.
      prefixes: a file whose keys include one of each is of this kind.
      rules: where its arrays go. Several rules may name one of our paths: other spellings of the same array.
      tables: its fixed position tables.
      ignored: keys (with `*` for anything) that are left out, each with the reason.
      settings: what a module must be for the weights to mean the same, as (attribute path, allowed values); the
        parameters' names and shapes cannot show these.
    """

    kind: str
    prefixes: tuple[str, ...]
    rules: tuple[Rule, ...]
    tables: tuple[Table, ...] = ()
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: tuple[tuple[str, tuple], ...] = ()

    def find(self, key: str) -> tuple[Rule, str] | None:
        """The rule that names a key of the file, and our path for it; None if none does."""
        for rule in self.rules:
            match = re.fullmatch(re.escape(rule.theirs).replace(r"\{i\}", r"(?P<i>\d+)"), key)
            if match:
                return rule, rule.ours.format(**match.groupdict())
        return None

    def reason_ignored(self, key: str) -> str | None:
        """Why a key of the file is left out, None if it is not."""
        for pattern, reason in self.ignored.items():
            if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), key):
                return reason
        return None


def in_blocks(theirs: str, ours: str, table: tuple[tuple[str, str, str], ...]) -> tuple[Rule, ...]:
    """The rules of a stack of blocks from a table of (their name, our name, transform) inside one block.

    Args:
      theirs: the prefix of a block in the file, with `{i}`.
      ours: `encoder` or `decoder`.
      table: the names inside a block.
    """
    return tuple(Rule(f"{theirs}.{a}", f"{ours}/blocks/block{{i}}/{b}", transform) for a, b, transform in table)
