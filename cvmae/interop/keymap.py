"""What a key map is: tables that say where each array of someone else's file belongs in our parameters, and back.

A map is data. Every key of a file must be named by one of its tables: `rules` (used), `tables` (fixed positions, checked
against ours) or `ignored` (with the reason). `convert.py` is the only code that reads them.
"""

import dataclasses
import re

import einops
import numpy as np

from cvmae.models import positions
from cvmae.models.patches import Grid


class Transform:
    """How one array of a file becomes `count` of ours, and the way back; each raises ValueError where the shape cannot be.

    Both ways move numbers and change none, so that a file written from what was read has the same bytes.
    """

    count = 1

    def read(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """Ours, out of theirs."""
        raise NotImplementedError

    def write(self, arrays: tuple[np.ndarray, ...], grid: Grid) -> np.ndarray:
        """Theirs, out of ours; `grid` says what a patch is."""
        raise NotImplementedError


class Copy(Transform):
    """As it is."""

    def read(self, array):
        return (array,)

    def write(self, arrays, grid):
        return arrays[0]


class Linear(Transform):
    """torch's [out, in] and Flax's [in, out]."""

    def read(self, array):
        if array.ndim != 2:
            raise ValueError(f"a linear weight has 2 axes, not {array.ndim}")
        return (array.T,)

    def write(self, arrays, grid):
        return arrays[0].T


class Conv(Transform):
    """A patch convolution [D, C, (t,) p, p] and the kernel [(t p p C), D] of the matrix product over `patchify`'s order."""

    def __init__(self, axes: int):
        self.axes = axes

    def read(self, array):
        if array.ndim != self.axes:
            raise ValueError(f"a patch convolution has {self.axes} axes here, not {array.ndim}")
        whole = array if array.ndim == 5 else array[:, :, None]
        return (einops.rearrange(whole, "out c t h w -> (t h w c) out"),)

    def write(self, arrays, grid):
        sides = dict(t=grid.tubelet, h=grid.patch, w=grid.patch)
        whole = einops.rearrange(arrays[0], "(t h w c) out -> out c t h w", **sides)
        return whole if self.axes == 5 else whole[:, :, 0]


class ClsToken(Transform):
    """[1, 1, D] and [D]."""

    def read(self, array):
        if array.size != array.shape[-1]:
            raise ValueError("a token has one axis longer than 1, the last")
        return (array.reshape(-1),)

    def write(self, arrays, grid):
        return arrays[0][None, None]


class PositionTable(Transform):
    """A table [1, N, D] and [N, D]."""

    def read(self, array):
        if array.ndim != 3 or len(array) != 1:
            raise ValueError("a position table has 3 axes, the first of them 1 long")
        return (array[0],)

    def write(self, arrays, grid):
        return arrays[0][None]


class ClsTokenAndPositionTable(PositionTable):
    """A table [1, 1 + N, D] whose first row is that of cls, and [D], [N, D]."""

    count = 2

    def read(self, array):
        (rows,) = super().read(array)
        return rows[0], rows[1:]

    def write(self, arrays, grid):
        return np.concatenate([arrays[0][None], arrays[1]])[None]


class FusedQKV(Transform):
    """Query, key and value one below the other: [3·D, ...] and three of [D, ...], each read by `each`."""

    count = 3

    def __init__(self, each: Transform):
        self.each = each

    def read(self, array):
        if array.ndim < 1 or len(array) % 3:
            raise ValueError("query, key and value in one array have a first axis that is a multiple of 3")
        return tuple(self.each.read(third)[0] for third in np.split(array, 3))

    def write(self, arrays, grid):
        return np.concatenate([self.each.write((array,), grid) for array in arrays])


TRANSFORMS = {
    "copy": Copy(),
    "linear": Linear(),
    "conv2d": Conv(4),
    "conv3d": Conv(5),
    "token": ClsToken(),
    "rows": PositionTable(),
    "token_and_rows": ClsTokenAndPositionTable(),
    "qkv_linear": FusedQKV(Linear()),
    "qkv_copy": FusedQKV(Copy()),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One array, or one in each block, of a file.

    Attributes:
      theirs: the key in the file; `{i}` stands for the number of a block.
      ours: the paths in our parameters, parts joined by `/`, with the same `{i}`; one, or as many as the transform gives.
      transform: a name in `TRANSFORMS`.
    """

    theirs: str
    ours: str | tuple[str, ...]
    transform: str = "copy"

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


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

    def side(self, array: np.ndarray) -> int:
        """Tokens along a side of the grid.

        Raises:
          ValueError: the shape is not that of a table of a square grid with a cls row.
        """
        side = round(max(0, array.shape[-2] - 1) ** 0.5) if array.ndim == 3 else 0
        if not side or array.shape[:2] != (1, 1 + side * side):
            raise ValueError(f"shape {list(array.shape)} is not [1, 1 + side², D], a cls row and a square grid")
        return side

    def write(self, side: int, width: int) -> np.ndarray:
        """The table as a file holds it, float32 [1, 1 + side², width], with a zero row for cls before it."""
        rows = positions.sincos2d(side, side, width)
        return np.concatenate([np.zeros((1, width), np.float32), rows])[None]

    def difference(self, array: np.ndarray) -> float:
        """The largest difference from our table. Raises: ValueError, see `side`."""
        expected = self.write(self.side(array), array.shape[-1])
        return float(np.abs(array.astype(np.float64) - expected).max())


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """All that is known of one layout of a kind's files.

    Attributes:
      kind: its name in configs and on the command line; a kind may have several layouts.
      layout: what the file holds, for messages.
      signature: a file of this layout has a key that starts with each of these, and (behind `!`) none that starts with this.
      rules: where its arrays go. Of several that name one of our paths, other spellings of an array, the first is written.
      tables: its fixed position tables.
      ignored: keys (with `*` for anything) that are left out, each with the reason.
      encoder, decoder, head: what shapes cannot show of the modules: attributes of `Encoder` and `TransformerConfig`, of `DecoderSpec`, of
        `pretrained.Head`; None where the layout has no decoder or head.
      heads: attention heads by width of the published encoders, `decoder_heads` of the decoders.
      pixels: `mean` and `std` that the kind's recipe normalizes with.
      target_norm: what its decoder says.
    """

    kind: str
    layout: str
    signature: tuple[str, ...]
    rules: tuple[Rule, ...]
    tables: tuple[Table, ...] = ()
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    encoder: dict = dataclasses.field(default_factory=dict)
    decoder: dict | None = None
    head: dict | None = None
    heads: dict[int, int] = dataclasses.field(default_factory=dict)
    decoder_heads: dict[int, int] = dataclasses.field(default_factory=dict)
    pixels: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    target_norm: str = ""

    def fits(self, keys) -> bool:
        """Whether a file with these keys is of this layout."""
        wanted = [prefix for prefix in self.signature if not prefix.startswith("!")]
        barred = tuple(prefix[1:] for prefix in self.signature if prefix.startswith("!"))
        return all(any(key.startswith(prefix) for key in keys) for prefix in wanted) and not any(
            key.startswith(barred) for key in keys if barred
        )

    def find(self, key: str) -> tuple[Rule, tuple[str, ...]] | None:
        """The rule that names a key of the file, and our paths for it; None if none does."""
        for rule in self.rules:
            match = re.fullmatch(re.escape(rule.theirs).replace(r"\{i\}", r"(?P<i>\d+)"), key)
            if match:
                return rule, tuple(path.format(**match.groupdict()) for path in rule.paths)
        return None

    def reason_ignored(self, key: str) -> str | None:
        """Why a key of the file is left out, None if it is not."""
        for pattern, reason in self.ignored.items():
            if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), key):
                return reason
        return None


def in_blocks(theirs: str, ours: str, table) -> tuple[Rule, ...]:
    """The rules of a stack of blocks from a table of (their name, our name or names, transform) inside one block.

    Args:
      theirs: the prefix of a block in the file, with `{i}`.
      ours: `encoder` or `decoder`.
      table: the names inside a block.
    """
    rules = []
    for a, b, transform in table:
        paths = tuple(f"{ours}/blocks/block{{i}}/{path}" for path in ((b,) if isinstance(b, str) else b))
        rules.append(Rule(f"{theirs}.{a}", paths, transform))
    return tuple(rules)
