"""Infers the modules of a file's arrays from their shapes, from config.json and from the recipe of its kind."""

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from cvmae.interop.convert import Converted
from cvmae.interop.hints import ModelHints, give
from cvmae.interop.huggingface_config import CONFIG
from cvmae.interop.huggingface_models import FIELDS
from cvmae.interop.keymap import KeyMap
from cvmae.interop.pretrained import Head, WeightsError, too_large
from cvmae.models import rotary
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.factorized import BlockEncoder, FactorizedEncoder
from cvmae.models.patches import Grid
from cvmae.models.positions import PositionEmbedding, PositionTable
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize


def _other_size(name: str, recorded: str, size: int) -> str:
    """Returns the problem of a size that config.json gives otherwise than the arrays; recorded: see `_Reader.recorded`."""
    of = "the width of the arrays" if name.endswith("width") else "the number of blocks in the file"
    return f"{recorded}; expected {size}, {of}: give the config.json and the whole file of one model"


@dataclasses.dataclass(frozen=True)
class InferredModules:
    """The modules of a file, see `pretrained.Pretrained`."""

    encoder: BlockEncoder
    decoder: DecoderSpec | None
    head: Head | None
    notes: tuple[str, ...]


def infer_modules(
    key_map: KeyMap, arrays: Mapping, converted: Converted, config: Mapping, hints: ModelHints = ModelHints()
) -> InferredModules:
    """Infers the modules that a file's arrays belong to.

    Args:
      key_map: the file's.
      arrays: the arrays as they are in the file.
      converted: the same, converted.
      config: the fields of config.json, as `huggingface_config.read_config` names them; may be empty.
      hints: settings that neither arrays nor config give.

    Raises:
      WeightsError: an array or setting that is needed is missing.
    """
    if "encoder/embed/kernel" not in converted.arrays:
        rule = key_map.rule_of("encoder/embed/kernel", arrays)
        key = rule[1] if rule else "encoder/embed/kernel"
        missing = f"missing: the patch embedding {key}, without which no size is known: give the file of the whole model"
        raise WeightsError(key_map.kind, [*converted.problems, missing])
    reader = _Reader(key_map, arrays, converted, config, hints)
    grid = reader.grid()
    encoder = _ENCODERS[key_map.backbone](reader, grid)
    decoder = reader.decoder(grid, key_map.decoder) if key_map.decoder is not None and reader.has("decoder/") else None
    head = reader.head(key_map.head) if key_map.head is not None and reader.has("head/") else None
    return InferredModules(encoder, decoder, head, tuple(reader.notes))


def _vit(reader: "_Reader", grid: Grid) -> Encoder:
    fields, config = reader.key_map.encoder, reader.config
    return Encoder(
        reader.trunk("encoder"),
        grid,
        reader.positions("encoder", fields.get("positions")),
        fields.get("cls_token", "encoder/cls" in reader.converted.arrays),
        config.get("final_norm", reader.has("encoder/norm/")),
        reader.shape("encoder/registers", (0,))[0],
    )


def _factorized(reader: "_Reader", grid: Grid) -> FactorizedEncoder:
    final_norm = reader.config.get("final_norm", reader.has("encoder/norm/"))
    return FactorizedEncoder(reader.trunk("encoder"), grid, reader.temporal_blocks(), final_norm)


_ENCODERS: dict[str, Callable[..., BlockEncoder]] = {"vit": _vit, "factorized": _factorized}  # by `KeyMap.backbone`


class _Reader:
    """Infers the settings of one file; assumptions are recorded in `notes`."""

    def __init__(self, key_map: KeyMap, arrays: Mapping, converted: Converted, config: Mapping, hints: ModelHints):
        self.key_map, self.arrays, self.converted, self.config, self.hints = key_map, arrays, converted, config, hints
        self.notes: list[str] = []

    def has(self, prefix: str) -> bool:
        return any(path.startswith(prefix) for path in self.converted.arrays)

    def shape(self, path: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        array = self.converted.arrays.get(path)
        return default if array is None else array.shape

    def trunk(self, branch: str) -> TransformerConfig:
        """Returns depth, width, heads and the like of the blocks of an encoder or decoder. Raises: WeightsError, they disagree."""
        prefix = "decoder_" if branch == "decoder" else ""
        width = self._width(branch)
        pattern = re.compile(rf"{branch}/blocks/block(\d+)/(.*)")
        matches = [match for match in map(pattern.fullmatch, self.converted.arrays) if match]
        depth = self._depth(branch, {int(match[1]) for match in matches})
        self._check_size(f"{prefix}width", FIELDS[f"{prefix}width"], width)
        self._check_size(f"{prefix}depth", self.config.get("depth_field", FIELDS[f"{prefix}depth"]), depth)
        hidden = self.config.get(f"{prefix}hidden", self.shape(f"{branch}/blocks/block0/mlp_in/kernel", (0, 4 * width))[-1])
        names = {match[2] for match in matches}
        bias = "qkv" if "attention/key/bias" in names else "qv" if "attention/query/bias" in names else "none"
        if bias != "none" == self.config.get("qkv_bias", bias):
            field = self.config.get("bias_field", "qkv_bias")
            problem = f"config.json: {field} is False; the file has biases of queries and values: correct it"
            raise WeightsError(self.key_map.kind, [problem])
        size = ViTSize(width, depth, self.heads(prefix, width), hidden / width)
        eps, mlp = self.config.get("eps", self.key_map.encoder["eps"]), self.key_map.encoder.get("mlp", "gelu")
        mlp = self.config.get("mlp", "swiglu" if "mlp_gate/kernel" in names else mlp)
        scale = "layer_scale1/scale" in names
        softcap = self.config.get("softcap", self.key_map.encoder.get("softcap", 0.0))
        return TransformerConfig(size, self.config.get("qkv_bias", bias), eps, mlp=mlp, layer_scale=scale, softcap=softcap)

    def temporal_blocks(self) -> int:
        """Returns the number of temporal blocks of a factorized encoder. Raises: WeightsError, config.json has another."""
        matches = map(re.compile(r"encoder/temporal/block(\d+)/.*").fullmatch, self.converted.arrays)
        depth = self._depth("temporal encoder", {int(match[1]) for match in matches if match})
        self._check_size("temporal_blocks", "num_temporal_layers", depth)
        return depth

    def is_default(self, field: str) -> bool:
        """Returns True if config.json lacks a field, which then has transformers' default."""
        return field in self.config.get("absent", ())

    def recorded(self, field: str, value: int) -> str:
        """Returns in words what config.json says of a field."""
        return f"{CONFIG}: {field} is {'absent, where the default of transformers is ' if self.is_default(field) else ''}{value}"

    def _check_size(self, name: str, field: str, inferred: int) -> None:
        recorded = self.config.get(name, inferred)
        if recorded != inferred:
            raise WeightsError(self.key_map.kind, [_other_size(name, self.recorded(field, recorded), inferred)])

    def _depth(self, branch: str, blocks: set[int]) -> int:
        """Returns the number of blocks; a few may be missing, which is reported array by array."""
        depth = 1 + max(blocks, default=-1)
        if depth > 2 * len(blocks) or not depth:
            missing = f"missing: the {branch} has {len(blocks)} blocks in the file, and the last is number {depth - 1}"
            raise WeightsError(self.key_map.kind, [f"{missing}: give the file of the whole model"])
        return depth

    def _width(self, branch: str) -> int:
        """Returns the width that most arrays show, so that a mis-shaped one is reported as such."""
        ends = ("embed/kernel", "blocks/block0/norm1/scale", "blocks/block0/mlp_out/bias", "blocks/block0/attention/out/bias")
        widths = [self.shape(f"{branch}/{end}")[-1] for end in ends if self.shape(f"{branch}/{end}")]
        if not widths or not statistics.mode(widths):
            raise WeightsError(self.key_map.kind, [f"missing: no array shows the width of the {branch}"])
        return statistics.mode(widths)

    def heads(self, prefix: str, width: int) -> int:
        """Returns the number of attention heads, which few files show."""
        name, field = f"{prefix}heads", FIELDS[f"{prefix}heads"]
        recorded, hint = self.config.get(name), getattr(self.hints, name)
        if not recorded and (shown := self._heads_shown(prefix, width)):
            return shown
        if hint and self.is_default(field) and not self.hints.recorded_first:
            recorded = 0
        published = (self.key_map.decoder_heads if prefix else self.key_map.heads).get(width)
        heads = recorded or hint or published
        if not heads:
            raise WeightsError(self.key_map.kind, [f"no array shows how many heads attend over width {width}: give {give(name)}"])
        if not recorded and hint and hint != published:
            self.notes.append(f"{name} of width {width} are not in the file: taken to be {hint}")
        smallest = rotary.SMALLEST_HEAD if self.key_map.encoder.get("positions") == "rope3d" else 1
        if width % heads or width // heads < smallest:
            expected = f"a number that divides {width}, the width of the arrays"
            expected += f", into heads of {smallest} values or more, as rotary positions need" if smallest > 1 else ""
            remedy = f"add it, or give {give(name)}" if recorded and self.is_default(field) else "correct it"
            what = self.recorded(field, heads) if recorded else f"--{name} is {heads}"
            raise WeightsError(self.key_map.kind, [f"{what}; expected {expected}: {remedy}"])
        return heads

    def _heads_shown(self, prefix: str, width: int) -> int:
        """Returns the number of heads of a query's kernel in the file that has an axis of them; 0 without, or if it does not divide."""
        key = self.converted.sources.get(f"{'decoder' if prefix else 'encoder'}/blocks/block0/attention/query/kernel")
        shape: tuple[int, ...] = self.arrays[key].shape if key else ()
        return shape[1] if len(shape) == 3 and width % shape[1] == 0 else 0

    def positions(self, branch: str, fixed: PositionEmbedding | None) -> PositionEmbedding:
        if f"{branch}/positions/space" in self.converted.arrays:
            return "separable"
        if f"{branch}/positions/table" in self.converted.arrays:
            return "learned"
        return fixed or "separable"

    def grid(self) -> Grid:
        """Returns the grid: patches of the convolution's kernel, frames and sides of the positions, config.json or hints."""
        key = self.converted.sources["encoder/embed/kernel"]
        shape = self.arrays[key].shape
        side = shape[-1] if len(shape) > 2 else math.isqrt(shape[0] // 3)  # [3 · side², D] of the patches of a frame
        is_square = shape[-1] == shape[-2] if len(shape) > 2 else 3 * side**2 == shape[0]
        if 0 in shape or not is_square:
            wanted = "the last two axes" if len(shape) > 2 else "whose pixels in RGB are the first of two axes"
            raise WeightsError(
                self.key_map.kind,
                [f"mis-shaped: {key} is {list(shape)}, expected square patches, {wanted}, and no axis of length 0"],
            )
        tubelet = self.config.get("tubelet", shape[2] if len(shape) == 5 else 1)
        patch = self.config.get("patch", side)
        frames = self.config.get("num_frames") or self._frames(tubelet, image=len(shape) == 4)
        height, width = self.config.get("size") or self._size(patch, frames // tubelet)
        if not self.has("encoder/positions/"):  # no array is over the grid, so that any can take the place of an impossible one
            frames = self._possible("num_frames", frames, self.hints.num_frames, frames % tubelet == 0)
            is_filled = height % patch == width % patch == 0
            height, width = self._possible("size", (height, width), self.hints.sides, is_filled)
        recorded = self.config.get("size_recorded", (height, width))
        if recorded != (height, width):
            sizes = f"{recorded[0]}x{recorded[1]} pixels, and patches of {patch} fill {height}x{width} of them"
            self.notes.append(f"{CONFIG} has frames of {sizes}: that is the size taken")
        try:
            grid = Grid(frames, height, width, tubelet, patch)
        except ValueError as error:
            raise WeightsError(self.key_map.kind, [f"{error}; give others by {give('num_frames', 'size')}"]) from error
        if problem := too_large(grid, self.shape("encoder/embed/kernel")[-1]):
            raise WeightsError(self.key_map.kind, [f"{problem}; give others by {give('num_frames', 'size')}"])
        return grid

    def _possible(self, name: str, recorded, hint, is_possible: bool):
        """Returns the number of frames or their size of config.json, or where it is impossible the one that was asked for."""
        if is_possible or not hint or hint == (0, 0):
            return recorded
        self.notes.append(f"{name} {recorded} of {CONFIG} is no multiple of its patches: {hint} is taken, as given")
        return hint

    def _frames(self, tubelet: int, image: bool) -> int:
        time_patches = self.shape("encoder/positions/time", (0,))[0]
        if image or time_patches:
            return tubelet * max(1, time_patches)
        if not self.hints.num_frames:
            self.notes.append(f"the number of frames is not in the file: taken to be {self.key_map.num_frames}, as published")
        return self.hints.num_frames or self.key_map.num_frames

    def _size(self, patch: int, time_patches: int) -> tuple[int, int]:
        """Returns the height and width of a frame, from the number of positions if there is a table."""
        count = self.shape("encoder/positions/space", (0,))[0]
        count = count or self.shape("encoder/positions/table", (0,))[0] // max(1, time_patches)
        fixed = [t for t in self.key_map.tables if t.branch == "encoder" and t.source in self.converted.fixed]
        if fixed:
            count = fixed[0].side(np.asarray(self.arrays[self.converted.fixed[fixed[0].source]])) ** 2
        if not count:
            if not any(self.hints.sides):
                self.notes.append(f"the size of frames is not in the file: taken to be {self.key_map.side}, as published")
            return self.hints.sides if any(self.hints.sides) else (self.key_map.side, self.key_map.side)
        height, width = self.hints.sides
        if height * width == count * patch**2:
            return height, width
        side = round(count**0.5) * patch
        if side * side != count * patch**2:
            raise WeightsError(self.key_map.kind, [f"{count} positions are no square: give the frames' size by {give('size')}"])
        return side, side

    def decoder(self, grid: Grid, fields: Mapping) -> DecoderSpec:
        """Returns the decoder that the arrays and `fields`, those of the format, describe. Raises: WeightsError."""
        cls = "own" if "decoder/cls" in self.converted.arrays else "none"
        values = self.shape("decoder/predict/kernel", (0, grid.patch_dim()))[-1]
        frames = values // (grid.patch**2 * 3) * grid.time_patches
        return DecoderSpec(
            self.trunk("decoder"),
            fields["layout"],
            cast(PositionTable, self.positions("decoder", fields.get("positions"))),
            fields.get("cls", cls),
            fields.get("embed_bias", True),
            self.config.get("decoder_norm_eps", fields["norm_eps"]),
            0 if frames == grid.num_frames else frames,
        )

    def head(self, fields: Mapping) -> Head:
        """Returns the head that the arrays and `fields`, those of the format, describe. Raises: WeightsError."""
        if not self.has("head/kernel"):
            raise WeightsError(
                self.key_map.kind, ["missing: the weight of the head, whose bias is there: take both out, or none"]
            )
        classes = self.shape("head/kernel")[-1]
        if self.has("pooler/"):
            trunk = self.trunk("encoder")  # whose heads and eps the pooler shares
            numbers = {
                int(path.split("/")[2].removeprefix("block"))
                for path in self.converted.arrays
                if path.startswith("pooler/blocks/")
            }
            blocks = self._depth("pooler", numbers) if numbers else 0
            return Head(classes, "attentive", trunk.eps, blocks=blocks, heads=trunk.size.heads)
        pool = self.config.get("pool", "mean" if self.has("norm/") else "first")
        return Head(classes, pool, fields["eps"])
