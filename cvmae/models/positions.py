"""Position embeddings: fixed sinusoids as float32 numpy constants, learned tables as a Flax module, tables for other grids."""

import dataclasses
import math
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cvmae.array_types import AnyArray
from cvmae.models.choices import check_choice
from cvmae.models.patches import Grid

PositionTable = Literal["separable", "learned", "sincos1d", "sincos2d", "sincos3d"]
TABLES = get_args(PositionTable)
# `rope3d` is no table: it rotates the queries and keys of every block (`models.rotary`).
PositionEmbedding = Literal[PositionTable, "rope3d"]
KINDS = get_args(PositionEmbedding)
FIXED = ("sincos1d", "sincos2d", "sincos3d")


def interleaved_sincos(length: int, width: int) -> Float[np.ndarray, "{length} {width}"]:
    """VideoMAE's table, float32: even columns sine, odd columns cosine, over the flat token index."""
    column = np.arange(width)
    angle = np.arange(length)[:, None] / np.power(10000.0, 2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def axis_sincos(coordinates: np.ndarray, width: int) -> Float[np.ndarray, "n {width}"]:
    """MAE's table of one axis, float64, a row for each coordinate: all sines first, then all cosines.

    Raises:
      ValueError: `width` is odd.
    """
    if width % 2:
        raise ValueError(f"a sine-cosine axis needs an even width, got {width}: take an encoder width divisible by 16")
    frequency = 1.0 / 10000 ** (np.arange(width // 2) / (width / 2.0))
    angle = coordinates.reshape(-1)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def sincos2d(rows: int, columns: int, width: int) -> Float[np.ndarray, "{rows}*{columns} {width}"]:
    """MAE's table, float32: the first half of the width encodes the column, the second the row."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    table = np.concatenate([axis_sincos(column, width // 2), axis_sincos(row, width // 2)], axis=1)
    return table.astype(np.float32)


def sincos3d(grid: Grid, width: int) -> Float[np.ndarray, "N {width}"]:
    """A table with MVD's proportions, float32: a quarter of the width for time, the rest halved between row and column."""
    frame, row, column = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    time = width // 4
    space = (width - time) // 2
    tables = [axis_sincos(frame, time), axis_sincos(row, space), axis_sincos(column, width - time - space)]
    return np.concatenate(tables, axis=1).astype(np.float32)


def fixed_table(embedding: str, grid: Grid, width: int) -> Float[np.ndarray, "N {width}"]:
    """The fixed table for the tokens of `grid`, float32.

    Raises:
      ValueError: `embedding` is not in FIXED, or is `sincos2d` for more than one time patch.
    """
    if embedding == "sincos1d":
        return interleaved_sincos(grid.tokens, width)
    if embedding == "sincos2d":
        if grid.time_patches != 1:
            raise ValueError(
                f"positions='sincos2d' has no time axis, but there are {grid.time_patches} time patches: take 'sincos3d'"
            )
        return sincos2d(grid.rows, grid.columns, width)
    if embedding == "sincos3d":
        return sincos3d(grid, width)
    raise ValueError(f"positions is {embedding!r}, which is no fixed table; expected one of {', '.join(FIXED)}")


class Positions(nn.Module):
    """The position table of a grid, float32 [N, width], and that of a cls token, [width].

    `separable` is mae_st's: a learned table over space plus one over time. `learned` is one learned table over all
    tokens (mae_st without `sep_pos_embed`). The fixed tables have no parameters; their cls position is zero (MAE).

    For another grid than the one they were trained on, learned tables are interpolated (`interpolate_params`); fixed ones are
    computed for that grid, as VideoMAE does. Under `sincos1d` the first time patches then keep their rows where only the number of
    frames changed, but at another frame size every token gets the row of another position.
    """

    embedding: PositionEmbedding
    grid: Grid
    width: int
    has_cls: bool

    @nn.compact
    def __call__(self) -> tuple[Float[AnyArray, "N width"], Float[AnyArray, " width"]]:
        check_choice("positions", self.embedding, PositionTable)
        if self.embedding in FIXED:
            return jnp.asarray(fixed_table(self.embedding, self.grid, self.width)), jnp.zeros(self.width)
        init = nn.initializers.truncated_normal(0.02)
        cls = self.param("cls", init, (self.width,)) if self.has_cls else jnp.zeros(self.width)
        if self.embedding == "learned":
            return self.param("table", init, (self.grid.tokens, self.width)), cls
        space = self.param("space", init, (self.grid.spatial_patches, self.width))
        time = self.param("time", init, (self.grid.time_patches, self.width))
        return (time[:, None] + space[None]).reshape(self.grid.tokens, self.width), cls


def _linear(distance):
    return np.maximum(0.0, 1.0 - distance)


def _cubic(distance, a: float = -0.75):
    """Keys' cubic convolution with a = -0.75, which is PyTorch's; where it filters (`antialias`), a is -0.5."""
    d = distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _weights(old: int, new: int, kernel, reach: int) -> np.ndarray:
    """The matrix that interpolates `old` samples of an axis at `new` points, float64 [new, old].

    Samples are at the centers of equal intervals (PyTorch's align_corners=False), the border is repeated, and the kernel is not
    widened where there are fewer samples than before (antialias=False).
    """
    center = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(center).astype(int)[:, None] + np.arange(1 - reach, 1 + reach)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], taps.clip(0, old - 1)), kernel(np.abs(center[:, None] - taps)))
    return weights


def _filter_weights(old: int, new: int, kernel, reach: int) -> np.ndarray:
    """The matrix of `_weights` with a kernel that is widened where there are fewer samples than before: PyTorch's antialias=True.

    Samples beyond the border have no part in it.
    """
    scale = old / new
    center = (np.arange(new) + 0.5) * scale
    reached = np.abs(np.arange(old) + 0.5 - center[:, None]) / max(scale, 1.0)
    weights = kernel(reached, -0.5) if kernel is _cubic else kernel(reached)
    return weights / weights.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """The way to interpolate a table.

    Attributes:
      antialias: as in torch.nn.functional.interpolate: filters where there are fewer samples than before.
      bilinear: linear over rows and columns (VideoPrism) and not bicubic.
    """

    antialias: bool = False
    bilinear: bool = False


def interpolate(
    table, old: tuple[int, int, int], new: tuple[int, int, int], way: Interpolation = Interpolation()
) -> Float[np.ndarray, "N D"]:
    """Interpolates a table [M, D] over a grid of `old` = (time patches, rows, columns) to one of `new`; the dtype stays.

    Bicubic over rows and columns, as MAE and DeiT do for positions, and linear over time, by the rules of
    torch.nn.functional.interpolate(align_corners=False), unless `way` says otherwise. An axis whose length does not change is left alone.

    Raises:
      ValueError: the table is not over the old grid.
    """
    table, count = np.asarray(table), math.prod(old)
    if table.shape[0] != count:
        raise ValueError(f"a position table of {table.shape[0]} rows is not over {'x'.join(map(str, old))} = {count} tokens")
    values = table.reshape(*old, -1)
    space = (_linear, 1) if way.bilinear else (_cubic, 2)
    for axis, (kernel, reach) in enumerate(((_linear, 1), space, space)):
        if old[axis] != new[axis]:
            weights = (_filter_weights if way.antialias else _weights)(old[axis], new[axis], kernel, reach)
            values = np.moveaxis(np.tensordot(weights, values.astype(np.float64), (1, axis)), 0, axis)
    return values.reshape(math.prod(new), -1).astype(table.dtype)


def interpolate_params(params, old: Grid, new: Grid, way: Interpolation = Interpolation()) -> dict:
    """Interpolates the parameters of `Positions` over one grid to another; see `interpolate`. The row of cls stays as it is."""
    interpolated = dict(params)
    for name in {"space", "time", "table"} & params.keys():
        interpolated[name] = interpolate(params[name], _span(name, old), _span(name, new), way)
    return interpolated


def _span(name: str, grid: Grid) -> tuple[int, int, int]:
    """The part of a grid that a learned table is over."""
    time, rows, columns = grid.shape
    return {"space": (1, rows, columns), "time": (time, 1, 1), "table": grid.shape}[name]
