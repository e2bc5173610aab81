"""Which modules a file's arrays are of: what their shapes show, what config.json says, what the kind's recipe fixes."""

import dataclasses
import re
import statistics
from collections.abc import Mapping

import numpy as np

from cvmae.interop.convert import Converted
from cvmae.interop.keymap import KeyMap
from cvmae.interop.pretrained import Head, WeightsError
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize

PUBLISHED_FRAMES, PUBLISHED_SIDE = 16, 224


@dataclasses.dataclass(frozen=True)
class ModelHints:
    """What a file may leave open; 0 takes what the published models have. What the file itself says comes first.

    Attributes:
      heads, decoder_heads: attention heads.
      num_frames: of a clip.
      size: (height, width) of its frames in pixels.
      decoder: whether the decoder is wanted; if not, nothing about it needs to be known.
    """

    heads: int = 0
    decoder_heads: int = 0
    num_frames: int = 0
    size: tuple[int, int] = (0, 0)
    decoder: bool = True


@dataclasses.dataclass(frozen=True)
class InferredModules:
    """The modules of a file, see `pretrained.Pretrained`."""

    encoder: Encoder
    decoder: DecoderSpec | None
    head: Head | None
    notes: tuple[str, ...]


def infer_modules(
    key_map: KeyMap, arrays: Mapping, found: Converted, said: Mapping, hints: ModelHints = ModelHints()
) -> InferredModules:
    """The modules that a file's arrays belong to.

    Args:
      key_map: of the file.
      arrays: as they are in the file.
      found: the same, converted.
      said: what config.json says, in the words of `hf_folder.Said`; may be empty.
      hints: for what is still open.

    Raises:
      WeightsError: what is needed for that is not there.
    """
    if "encoder/embed/kernel" not in found.arrays:
        raise WeightsError(key_map.kind, [*found.problems, "missing: the patch embedding, without which no size can be told"])
    reader = _Reader(key_map, arrays, found, said, hints)
    grid = reader.grid()
    encoder = Encoder(
        reader.trunk("encoder"),
        grid,
        reader.positions("encoder", key_map.encoder.get("positions")),
        key_map.encoder.get("cls_token", "encoder/cls" in found.arrays),
        said.get("final_norm", reader.has("encoder/norm/")),
    )
    decoder = reader.decoder(grid) if reader.has("decoder/") and key_map.decoder is not None else None
    head = reader.head() if key_map.head is not None and reader.has("head/") else None
    return InferredModules(encoder, decoder, head, tuple(reader.notes))


class _Reader:
    """Answers questions about one file; what had to be assumed is in `notes`."""

    def __init__(self, key_map: KeyMap, arrays, found: Converted, said, hints: ModelHints):
        self.key_map, self.arrays, self.found, self.said, self.hints = key_map, arrays, found, said, hints
        self.notes: list[str] = []

    def has(self, prefix: str) -> bool:
        return any(path.startswith(prefix) for path in self.found.arrays)

    def shape(self, path: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        array = self.found.arrays.get(path)
        return default if array is None else array.shape

    def trunk(self, branch: str) -> TransformerConfig:
        prefix = "decoder_" if branch == "decoder" else ""
        width = self.said.get(f"{prefix}width") or self._width(branch)
        inside = [match for match in map(re.compile(rf"{branch}/blocks/block(\d+)/(.*)").fullmatch, self.found.arrays) if match]
        depth = self.said.get(f"{prefix}depth", 1 + max((int(match[1]) for match in inside), default=-1))
        hidden = self.said.get(f"{prefix}hidden", self.shape(f"{branch}/blocks/block0/mlp_in/kernel", (0, 4 * width))[-1])
        names = {match[2] for match in inside}
        bias = "qkv" if "attention/key/bias" in names else "qv" if "attention/query/bias" in names else "none"
        size = ViTSize(width, depth, self.heads(prefix, width), hidden / width)
        return TransformerConfig(size, self.said.get("qkv_bias", bias), self.said.get("eps", self.key_map.encoder["eps"]))

    def _width(self, branch: str) -> int:
        """What most of the arrays that end in the width say, so that one that is mis-shaped is named as such."""
        ends = ("embed/kernel", "blocks/block0/norm1/scale", "blocks/block0/mlp_out/bias", "blocks/block0/attention/out/bias")
        found = [self.shape(f"{branch}/{end}")[-1] for end in ends if self.shape(f"{branch}/{end}")]
        if not found:
            raise WeightsError(self.key_map.kind, [f"missing: no array tells the width of the {branch}"])
        return statistics.mode(found)

    def heads(self, prefix: str, width: int) -> int:
        """Attention heads, which no array shows."""
        said, hint = self.said.get(f"{prefix}heads"), getattr(self.hints, f"{prefix}heads")
        known = (self.key_map.decoder_heads if prefix else self.key_map.heads).get(width)
        heads = said or hint or known
        if not heads:
            option = f"--{prefix}heads"
            raise WeightsError(
                self.key_map.kind, [f"no array shows how many heads attend over width {width}: say so by {option}"]
            )
        if not said and hint and hint != known:
            self.notes.append(f"{prefix}heads of width {width} are not in the file: taken to be {hint}")
        if width % heads:
            raise WeightsError(self.key_map.kind, [f"{prefix}width {width} is not a multiple of {heads} heads"])
        return heads

    def positions(self, branch: str, fixed: str | None) -> str:
        if f"{branch}/positions/space" in self.found.arrays:
            return "separable"
        if f"{branch}/positions/table" in self.found.arrays:
            return "learned"
        return fixed or "separable"

    def grid(self) -> Grid:
        """What the convolution cuts, over as many frames and pixels as positions, config.json or hints say."""
        shape = self.arrays[self.found.sources["encoder/embed/kernel"]].shape
        tubelet = self.said.get("tubelet", shape[2] if len(shape) == 5 else 1)
        patch = self.said.get("patch", shape[-1])
        frames = self.said.get("num_frames") or self._frames(tubelet, image=len(shape) == 4)
        size = self.said.get("size") or self._size(patch, frames // tubelet)
        try:
            return Grid(frames, *size, tubelet, patch)
        except ValueError as error:
            raise WeightsError(self.key_map.kind, [f"{error}; say otherwise by --num_frames and --image_size"]) from error

    def _frames(self, tubelet: int, image: bool) -> int:
        slots = self.shape("encoder/positions/time", (0,))[0]
        if image or slots:
            return tubelet * max(1, slots)
        if not self.hints.num_frames:
            self.notes.append(f"the number of frames is not in the file: taken to be {PUBLISHED_FRAMES}, as published")
        return self.hints.num_frames or PUBLISHED_FRAMES

    def _size(self, patch: int, slots: int) -> tuple[int, int]:
        """Height and width of a frame, from the number of positions where there is a table."""
        count = self.shape("encoder/positions/space", (0,))[0] or self.shape("encoder/positions/table", (0,))[0] // max(1, slots)
        tables = [table for table in self.key_map.tables if table.branch == "encoder" and table.theirs in self.found.ignored]
        if tables:
            count = tables[0].side(np.asarray(self.arrays[tables[0].theirs])) ** 2
        if not count:
            if not all(self.hints.size):
                self.notes.append(f"the size of frames is not in the file: taken to be {PUBLISHED_SIDE}, as published")
            return self.hints.size if all(self.hints.size) else (PUBLISHED_SIDE, PUBLISHED_SIDE)
        height, width = self.hints.size
        if height * width == count * patch**2:
            return height, width
        side = round(count**0.5) * patch
        if side * side != count * patch**2:
            raise WeightsError(self.key_map.kind, [f"{count} positions are no square: say the frames' size by --image_size"])
        return side, side

    def decoder(self, grid: Grid) -> DecoderSpec:
        fields = dict(self.key_map.decoder)
        own = "own" if "decoder/cls" in self.found.arrays else "none"
        values = self.shape("decoder/predict/kernel", (0, grid.patch_dim()))[-1]
        frames = values // (grid.patch**2 * 3) * grid.time_patches
        return DecoderSpec(
            self.trunk("decoder"),
            fields["layout"],
            self.positions("decoder", fields.get("positions")),
            fields.get("cls", own),
            fields.get("embed_bias", True),
            self.said.get("decoder_norm_eps", fields["norm_eps"]),
            0 if frames == grid.num_frames else frames,
        )

    def head(self) -> Head:
        classes = self.said.get("classes", self.shape("head/kernel", (0, 0))[-1])
        pool = self.said.get("pool", "mean" if self.has("norm/") else "first")
        return Head(classes, pool, self.key_map.head["eps"], self.said.get("names", ()))
