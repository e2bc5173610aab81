"""Masks with a fixed number of visible tokens, and moving tokens by permutation without a scatter.

Every mask is a permutation of the N tokens of a sample whose first K are visible. Tokens move by gather both ways: the
gradient of a gather by a permutation is a gather by its inverse, so no scatter reaches the compiled program (scatters
are slow on TPU and sequential on CPU).
"""

import math
from typing import Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, Num

from cvmae.array_types import AnyArray
from cvmae.models.choices import check_choice
from cvmae.models.patches import Grid

MaskKind = Literal["random", "tube", "frame"]
KINDS = get_args(MaskKind)
Rounding = Literal["up", "down"]
ROUNDINGS = get_args(Rounding)
Subsampling = Literal["random", "cell"]
SUBSAMPLES = get_args(Subsampling)


class Mask(flax.struct.PyTreeNode):
    """A permutation of tokens per sample.

    Attributes:
      ids_shuffle: int32 [B, N]; the tokens in shuffled order, the visible ones first.
      ids_restore: int32 [B, N]; its inverse.
      num_visible: K.
      num_predicted: M, the number of masked tokens that the decoder predicts, the first ones in `ids_shuffle` behind the visible;
        0: all N - K.
    """

    ids_shuffle: jax.Array
    ids_restore: jax.Array
    num_visible: int = flax.struct.field(pytree_node=False)
    num_predicted: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def ids_keep(self) -> Int32[Array, "B K"]:
        """The visible tokens."""
        return self.ids_shuffle[:, : self.num_visible]

    @property
    def masked(self) -> Int32[Array, "B M"]:
        """The masked tokens that are predicted, in the order of predictions."""
        return self.ids_shuffle[:, self.num_visible :][:, : self.num_predicted or None]

    @property
    def subsampled(self) -> bool:
        """True if some masked tokens are not predicted."""
        return bool(self.num_predicted)

    @property
    def restore_hidden_first(self) -> Int32[Array, "B N"]:
        """The inverse of the permutation that puts `masked` first and the visible tokens after them."""
        return (self.ids_restore - self.num_visible) % self.ids_restore.shape[1]

    @property
    def hidden(self) -> Bool[Array, "B N"]:
        """True where a token is masked, in the order of the grid."""
        return self.ids_restore >= self.num_visible


def visible_count(count: int, ratio: float, rounding: str = "up") -> int:
    """Number of `count` tokens that stay visible at a masking `ratio`.

    `up`: count - floor(ratio·count), VideoMAE's (157 of 1568 at 0.9; 20 of 196). `down`: floor(count·(1 - ratio)), MAE's and
    mae_st's (156 of 1568 at 0.9).

    Raises:
      ValueError: nothing would stay visible or nothing would be masked, or the rounding is unknown.
    """
    check_choice("mask rounding", rounding, Rounding)
    kept = count - int(ratio * count) if rounding == "up" else int(count * (1 - ratio))
    if not 0 < kept < count:
        raise ValueError(
            f"a masking ratio of {ratio} leaves {kept} of {count} tokens (or time patches) visible; at least 1 must be visible "
            "and 1 masked: change the ratio, or take smaller patches or a larger input"
        )
    return kept


def from_noise(noise: Float[AnyArray, "B N"], kept: int) -> Mask:
    """Keeps the `kept` tokens of lowest noise, in the order of the noise (MAE, mae_st)."""
    shuffle = jnp.argsort(noise, axis=1)
    return Mask(shuffle.astype(jnp.int32), jnp.argsort(shuffle, axis=1).astype(jnp.int32), kept)


def from_hidden(hidden: Bool[AnyArray, "B N"], kept: int) -> Mask:
    """Makes a mask of booleans, True where masked; visible and masked tokens stay in grid order (VideoMAE).

    Every row must leave exactly `kept` tokens visible; this cannot be checked under `jit`.
    """
    return from_noise(hidden.astype(jnp.float32), kept)  # argsort is stable, so ties keep the order of the grid


def draw(noise_key: Key[Array, " B"], grid: Grid, mask_kind: str, ratio: float, rounding: str = "up") -> Mask:
    """Draws one mask a sample.

    Args:
      noise_key: one PRNG key a sample.
      grid: the tokens.
      mask_kind: `random` over all tokens (mae_st), `tube` one spatial mask for all time patches (VideoMAE), `frame` entire time
        patches.
      ratio: the fraction that is masked: of tokens, spatial patches or time patches respectively.
      rounding: see `visible_count`.

    Raises:
      ValueError: the kind is unknown or the ratio leaves nothing visible or masked.
    """
    check_choice("mask kind", mask_kind, MaskKind)
    if mask_kind == "random":
        noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.tokens,)))(noise_key)
        return from_noise(noise, visible_count(grid.tokens, ratio, rounding))
    if mask_kind == "tube":
        kept = visible_count(grid.spatial_patches, ratio, rounding)
        noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.spatial_patches,)))(noise_key)
        hidden = jnp.tile(from_noise(noise, kept).hidden, (1, grid.time_patches))
        return from_hidden(hidden, kept * grid.time_patches)
    kept = visible_count(grid.time_patches, ratio, rounding)
    noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.time_patches,)))(noise_key)
    hidden = jnp.repeat(from_noise(noise, kept).hidden, grid.spatial_patches, axis=1)
    return from_hidden(hidden, kept * grid.spatial_patches)


def visible_time_patch_probability(grid: Grid, mask_kind: str, ratio: float, rounding: str = "up") -> float:
    """Returns the probability, 0..1, that a mask of `draw` leaves a token of a given time patch visible.

    Raises: ValueError, see `draw`.
    """
    check_choice("mask kind", mask_kind, MaskKind)
    if mask_kind == "tube":  # every time patch has the same visible tokens
        visible_count(grid.spatial_patches, ratio, rounding)
        return 1.0
    if mask_kind == "frame":
        return visible_count(grid.time_patches, ratio, rounding) / grid.time_patches
    kept = visible_count(grid.tokens, ratio, rounding)
    return 1 - math.comb(grid.tokens - grid.spatial_patches, kept) / math.comb(grid.tokens, kept)


def subsample(mask: Mask, noise_key: Key[Array, " B"], grid: Grid, subsampling: str, fraction: float) -> Mask:
    """Lets only a fraction of the masked tokens be predicted, as VideoMAEv2's dual masking does.

    Args:
      mask: with all of them predicted.
      noise_key: one PRNG key a sample.
      grid: the tokens.
      subsampling: `random`, uniformly; `cell`, VideoMAEv2's running cell: a fraction of every 2 x 2 spatial patches, which moves on by
        one spatial patch from time patch to time patch, so that over time all are predicted.
      fraction: above 0 and at most 1; 1 returns the mask as it is. M is the fraction of the N - K masked tokens, rounded down, at
        least 1.

    Raises:
      ValueError: the subsampling is unknown.
    """
    check_choice("decoder.subsample", subsampling, Subsampling)
    hidden = mask.ids_shuffle.shape[1] - mask.num_visible
    count = max(1, int(fraction * hidden))
    if count == hidden:
        return mask
    order = jax.vmap(lambda k: jax.random.uniform(k, (grid.tokens,)))(noise_key)
    if subsampling == "cell":
        order = order + running_cell(grid)
    order = jnp.argsort(jnp.take_along_axis(order, mask.masked, axis=1), axis=1)
    masked = jnp.take_along_axis(mask.masked, order, axis=1)
    shuffle = jnp.concatenate([mask.ids_keep, masked], axis=1)
    return Mask(shuffle, jnp.argsort(shuffle, axis=1).astype(jnp.int32), mask.num_visible, count)


def running_cell(grid: Grid) -> Float[Array, " N"]:
    """Rank 0, 1, 2 or 3 of each token in its 2 x 2 cell, around the cell; it moves on by one from time patch to time patch."""
    time, row, column = jnp.meshgrid(*(jnp.arange(n) for n in grid.shape), indexing="ij")
    rank = jnp.array([[0, 1], [3, 2]])[row % 2, column % 2]
    return ((rank - time) % 4).reshape(-1).astype(jnp.float32)


def visible_tokens(grid: Grid, mask_kind: str, ratio: float, rounding: str = "up") -> int:
    """K of a mask that `draw` would make, without drawing it."""
    keys = jax.random.split(jax.random.key(0), 1)
    return jax.eval_shape(lambda k: draw(k, grid, mask_kind, ratio, rounding), keys).num_visible


def _gather(x, index):
    return jnp.take_along_axis(x, index[..., None], axis=1, mode="clip")


@jax.custom_vjp
def _permute(x, index, inverse):
    """x[b, index[b, i]] for x [B, N, D] and index [B, M], the first M entries of a permutation with this inverse [B, N]."""
    del inverse
    return _gather(x, index)


def _permute_forward(x, index, inverse):
    return _gather(x, index), inverse


def _permute_backward(inverse, gradient):
    absent = inverse.shape[1] - gradient.shape[1]
    gradient = jnp.pad(gradient, ((0, 0), (0, absent), (0, 0)))
    return _gather(gradient, inverse), None, None


_permute.defvjp(_permute_forward, _permute_backward)


def take_visible(x: Num[AnyArray, "B N D"], mask: Mask) -> Num[Array, "B K D"]:
    """The visible tokens, in the order of `mask.ids_keep`."""
    return _permute(x, mask.ids_keep, mask.ids_restore)


def take_masked(x: Num[AnyArray, "B N D"], mask: Mask) -> Num[Array, "B M D"]:
    """The masked tokens that are predicted, in the order of `mask.masked`."""
    return _permute(x, mask.masked, mask.restore_hidden_first)


def restore(shuffled: Num[Array, "B N D"], mask: Mask) -> Num[Array, "B N D"]:
    """Puts tokens in the order of `mask.ids_shuffle` back in the order of the grid."""
    return _permute(shuffled, mask.ids_restore, mask.ids_shuffle)


@jax.custom_vjp
def _rows(table, index, inverse):
    del inverse
    return jnp.take(table, index, axis=0, mode="clip")


def _rows_forward(table, index, inverse):
    return jnp.take(table, index, axis=0, mode="clip"), inverse


def _rows_backward(inverse, gradient):
    return _permute_backward(inverse, gradient)[0].sum(0), None, None


_rows.defvjp(_rows_forward, _rows_backward)


def gather_visible_rows(table: Float[AnyArray, "N D"], mask: Mask) -> Float[Array, "B K D"]:
    """Rows of a table for the visible tokens; its gradient gathers and sums, it does not scatter."""
    return _rows(table, mask.ids_keep, mask.ids_restore)


def gather_masked_rows(table: Float[AnyArray, "N D"], mask: Mask) -> Float[Array, "B M D"]:
    """Rows of a table for the masked tokens that are predicted."""
    return _rows(table, mask.masked, mask.restore_hidden_first)
