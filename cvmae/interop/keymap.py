"""Key maps: tables that say where each array of a file belongs in this package's parameters, and back.

A map is data. Every key of a file must be named by one of its tables: `rules` (used), `tables` (fixed positions, compared
with the computed ones) or `ignored` (with the reason). `convert.py` is the only code that reads them.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from cvmae.models import positions


@dataclasses.dataclass(frozen=True)
class Rule:
    """The place of an array of a file, or of one in each block.

    Attributes:
      source: the key in the file; `{i}` stands for the number of a block.
      target: the paths of parameters, joined by `/`, with the same `{i}`; one, or as many as the transform gives.
      transform: a name in `transforms.TRANSFORMS`.
    """

    source: str
    target: str | tuple[str, ...]
    transform: str = "copy"

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The keys that the rule names."""
        return re.compile(re.escape(self.source).replace(r"\{i\}", r"(?P<i>0|[1-9][0-9]{0,4})"))


@dataclasses.dataclass(frozen=True)
class Table:
    """A fixed position table that a file stores and this package computes: [1, cls + N, D] of a square grid.

    Attributes:
      source: the key in the file.
      branch: `encoder` or `decoder`, the branch whose table it is.
      kind: the kind of positions (`cvmae.models.positions.KINDS`).
    """

    source: str
    branch: str
    kind: str = "sincos2d"

    def side(self, array: np.ndarray) -> int:
        """Returns the number of tokens along a side of the grid.

        Raises:
          ValueError: the shape is not that of a table of a square grid with a cls row.
        """
        side = round(max(0, array.shape[-2] - 1) ** 0.5) if array.ndim == 3 else 0
        if not side or array.shape[:2] != (1, 1 + side * side):
            raise ValueError(f"shape {list(array.shape)} is not [1, 1 + side², D], a cls row and a square grid")
        return side

    def write(self, side: int, width: int) -> np.ndarray:
        """Returns the table as a file holds it, float32 [1, 1 + side², width], with a zero row for cls before it."""
        rows = positions.sincos2d(side, side, width)
        return np.concatenate([np.zeros((1, width), np.float32), rows])[None]

    def difference(self, array: np.ndarray) -> float:
        """Returns the largest difference from the computed table. Raises: ValueError, see `side`."""
        expected = self.write(self.side(array), array.shape[-1])
        return float(np.abs(array.astype(np.float64) - expected).max())


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """A layout of a kind's files.

    Attributes:
      kind: its name in configs and on the command line; a kind may have several layouts.
      layout: the model that the file holds, for messages.
      signature: a file of this layout has a key that starts with each of these, and (behind `!`) none that starts with this.
      rules: the places of its arrays. If several name one parameter (other spellings of an array), the first is written.
      tables: its fixed position tables.
      ignored: keys (with `*` for anything) that are left out, each with the reason.
      backbone: the kind of its encoder, of `build.BACKBONES`.
      encoder, decoder, head: settings of the modules that shapes cannot show: attributes of the encoder and its `TransformerConfig`, of
        `DecoderSpec`, of `pretrained.Head`; None if the layout has no decoder or head.
      heads: attention heads by width of the published encoders, `decoder_heads` of the decoders.
      normalization: `mean` and `std` of the kind's recipe.
      target_norm: the decoder's targets (`patches.TARGET_NORMS`); empty if unknown.
      reconstructs: False for an encoder of features, whose branch is not to reconstruct pixels.
      num_frames, side: of the clips of the published models.
    """

    kind: str
    layout: str
    signature: tuple[str, ...]
    rules: tuple[Rule, ...]
    tables: tuple[Table, ...] = ()
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    backbone: str = "vit"
    encoder: dict = dataclasses.field(default_factory=dict)
    decoder: dict | None = None
    head: dict | None = None
    heads: dict[int, int] = dataclasses.field(default_factory=dict)
    decoder_heads: dict[int, int] = dataclasses.field(default_factory=dict)
    normalization: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    target_norm: str = ""
    reconstructs: bool = True
    num_frames: int = 16
    side: int = 224

    def fits(self, keys) -> bool:
        """Returns True if a file with these keys is of this layout."""
        wanted = [prefix for prefix in self.signature if not prefix.startswith("!")]
        barred = tuple(prefix[1:] for prefix in self.signature if prefix.startswith("!"))
        return all(any(key.startswith(prefix) for key in keys) for prefix in wanted) and not any(
            key.startswith(barred) for key in keys if barred
        )

    def find(self, key: str) -> tuple[Rule, tuple[str, ...]] | None:
        """Returns the rule that names a key of the file, and the paths of its parameters; None if there is no such rule."""
        for rule in self.rules:
            match = rule.pattern.fullmatch(key)
            if match:
                return rule, tuple(path.format(**match.groupdict()) for path in rule.targets)
        return None

    def names(self, key: str) -> bool:
        """Returns True if a table of this map says what becomes of a key of the file."""
        return (
            self.find(key) is not None
            or any(table.source == key for table in self.tables)
            or self.reason_ignored(key) is not None
        )

    def rule_of(self, path: str, keys) -> tuple[Rule, str, tuple[str, ...]] | None:
        """Returns the rule that makes a parameter, the key that a file with these `keys` has for it, and the rule's paths.

        Returns None for a parameter that files of this layout do not store.

        Where several spellings of an array are known, it is the one that most keys of the file share the beginning of.
        """
        rules = []
        for rule in self.rules:
            for target in rule.targets:
                match = re.fullmatch(re.escape(target).replace(r"\{i\}", r"(?P<i>[0-9]+)"), path)
                if match:
                    names = match.groupdict()
                    rules.append((rule, rule.source.format(**names), tuple(path.format(**names) for path in rule.targets)))
        if not rules:
            return None
        return max(rules, key=lambda pair: sum(key.startswith(pair[0].source.partition("{i}")[0]) for key in keys))

    def reason_ignored(self, key: str) -> str | None:
        """Returns why a key of the file is left out, None if it is not."""
        for pattern, reason in self.ignored.items():
            if re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), key):
                return reason
        return None
