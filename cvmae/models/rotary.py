"""Rotary positions of queries and keys over time, rows and columns, as V-JEPA 2 has them: `positions=rope3d`."""

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from cvmae.array_types import AnyArray
from cvmae.models.patches import Grid

SMALLEST_HEAD = 6  # a pair of values for each of the three axes


def table(grid: Grid, head: int) -> Float[np.ndarray, "N rotated2"]:
    """Cosines, then sines, of the angles of every token of a grid, float32.

    A third of a head's values, rounded down to an even number, belongs to each of time, row and column; those that are left are not
    rotated. V-JEPA 2's published code, and so its weights, repeat the frequencies of an axis as two halves, while neighboring values
    are the pairs: the two values of a pair turn by angles of their own.

    Args:
      grid: the tokens.
      head: width of an attention head.

    Raises:
      ValueError: heads are too narrow.
    """
    if head < SMALLEST_HEAD:
        raise ValueError(
            f"positions='rope3d' needs attention heads of {SMALLEST_HEAD} values or more, these have {head}: take fewer heads"
        )
    width = head // 3 // 2 * 2
    frequency = 10000.0 ** -(np.arange(width // 2) / (width / 2))
    angles = [
        np.tile(coordinate.reshape(-1, 1) * frequency, 2)
        for coordinate in np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    ]
    angle = np.concatenate(angles, axis=1)
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def unrotated(count: int, like: Float[AnyArray, "*B N rotated2"]) -> Float[Array, "*B {count} rotated2"]:
    """Rows of a table for tokens without a position, which stay as they are: cls and registers."""
    shape = (*like.shape[:-2], count, like.shape[-1] // 2)
    return jnp.concatenate([jnp.ones(shape, like.dtype), jnp.zeros(shape, like.dtype)], axis=-1)


def rotate(x: Float[Array, "B N D"], rows: Float[AnyArray, "*B N rotated2"], heads: int) -> Float[Array, "B N D"]:
    """Rotates queries or keys; the rotation is computed in float32.

    Args:
      x: as the projection gives them, D = heads · width.
      rows: of `table`, of every token; with a batch axis where samples see other tokens.
      heads: number of heads.
    """
    cos, sin = jnp.split(rows[..., None, :], 2, axis=-1)  # an axis for heads
    by_head = rearrange(x, "b n (h d) -> b n h d", h=heads)
    rotated = by_head[..., : cos.shape[-1]].astype(jnp.float32)
    pairs = rearrange(rotated, "b n h (d pair) -> b n h d pair", pair=2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(rotated.shape)
    rotated = (rotated * cos + turned * sin).astype(x.dtype)
    return rearrange(jnp.concatenate([rotated, by_head[..., cos.shape[-1] :]], axis=-1), "b n h d -> b n (h d)")
