"""Position tables: fixed sinusoids as float32 numpy constants, and the learned kinds as one Flax module."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from cvmae.models.patches import Grid

KINDS = ("separable", "learned", "sincos1d", "sincos2d", "sincos3d")


def interleaved_sincos(length: int, width: int) -> np.ndarray:
    """VideoMAE's table, float32 [length, width]: even columns sine, odd columns cosine, over the flat token index."""
    column = np.arange(width)
    angle = np.arange(length)[:, None] / np.power(10000.0, 2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def axis_sincos(coordinates: np.ndarray, width: int) -> np.ndarray:
    """MAE's table of one axis, float64 [len(coordinates), width]: all sines first, then all cosines.

    Raises:
      ValueError: `width` is odd.
    """
    if width % 2:
        raise ValueError(f"a sine-cosine axis needs an even width, got {width}: take an encoder width divisible by 16")
    frequency = 1.0 / 10000 ** (np.arange(width // 2) / (width / 2.0))
    angle = coordinates.reshape(-1)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def sincos2d(rows: int, columns: int, width: int) -> np.ndarray:
    """MAE's table, float32 [rows·columns, width]: the first half of the width encodes the column, the second the row."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    table = np.concatenate([axis_sincos(column, width // 2), axis_sincos(row, width // 2)], axis=1)
    return table.astype(np.float32)


def sincos3d(grid: Grid, width: int) -> np.ndarray:
    """MVD's proportions, float32 [N, width]: a quarter of the width for time, the rest halved between row and column."""
    slot, row, column = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    time = width // 4
    space = (width - time) // 2
    parts = [axis_sincos(slot, time), axis_sincos(row, space), axis_sincos(column, width - time - space)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def fixed_table(kind: str, grid: Grid, width: int) -> np.ndarray:
    """The fixed table of `kind` for the tokens of `grid`, float32 [N, width].

    Raises:
      ValueError: `kind` is not a fixed kind, or `sincos2d` is asked for more than one slot.
    """
    if kind == "sincos1d":
        return interleaved_sincos(grid.tokens, width)
    if kind == "sincos2d":
        if grid.slots != 1:
            raise ValueError(f"positions='sincos2d' has no time axis, but there are {grid.slots} slots: take 'sincos3d'")
        return sincos2d(grid.rows, grid.columns, width)
    if kind == "sincos3d":
        return sincos3d(grid, width)
    raise ValueError(f"positions is {kind!r}; expected one of {', '.join(KINDS)}")


class Positions(nn.Module):
    """The position table of a grid, float32 [N, width], and that of a cls token, [width].

    `separable` is mae_st's: a learned table over space plus one over time. `learned` is one learned table over all
    tokens (mae_st without `sep_pos_embed`). The `sincos` kinds hold no parameters; their cls position is zero (MAE).
    """

    kind: str
    grid: Grid
    width: int
    has_cls: bool

    @nn.compact
    def __call__(self):
        if self.kind not in ("separable", "learned"):
            return jnp.asarray(fixed_table(self.kind, self.grid, self.width)), jnp.zeros(self.width)
        init = nn.initializers.truncated_normal(0.02)
        cls = self.param("cls", init, (self.width,)) if self.has_cls else jnp.zeros(self.width)
        if self.kind == "learned":
            return self.param("table", init, (self.grid.tokens, self.width)), cls
        space = self.param("space", init, (self.grid.positions, self.width))
        time = self.param("time", init, (self.grid.slots, self.width))
        return (time[:, None] + space[None]).reshape(self.grid.tokens, self.width), cls
