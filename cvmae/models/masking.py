"""Which tokens are seen: masks of a fixed count, and moving tokens by permutation without a scatter.

Every mask is a permutation of the N tokens of a sample whose first K are visible. Tokens move by gather both ways: the
gradient of a gather by a permutation is a gather by its inverse, so no scatter reaches the compiled program (scatters
are slow on TPU and sequential on CPU).
"""

import flax.struct
import jax
import jax.numpy as jnp

from cvmae.models.patches import Grid

KINDS = ("random", "tube", "frame")
ROUNDINGS = ("up", "down")
SUBSAMPLES = ("random", "cell")


@flax.struct.dataclass
class Mask:
    """A permutation of tokens per sample.

    Attributes:
      ids_shuffle: int32 [B, N]; the token that comes at each place, the visible ones first.
      ids_restore: int32 [B, N]; its inverse.
      num_visible: K.
      num_predicted: M, how many hidden tokens the decoder is asked for, the first ones in `ids_shuffle` behind the visible; 0: all N - K.
    """

    ids_shuffle: jax.Array
    ids_restore: jax.Array
    num_visible: int = flax.struct.field(pytree_node=False)
    num_predicted: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def ids_keep(self):
        """int32 [B, K], the tokens that are seen."""
        return self.ids_shuffle[:, : self.num_visible]

    @property
    def masked(self):
        """int32 [B, M], the hidden tokens that are predicted, in the order of predictions."""
        return self.ids_shuffle[:, self.num_visible :][:, : self.num_predicted or None]

    @property
    def subsampled(self) -> bool:
        """Whether some hidden tokens are not predicted."""
        return bool(self.num_predicted)

    @property
    def restore_hidden_first(self):
        """int32 [B, N]; the inverse of the permutation that puts `masked` first and the visible tokens after them."""
        return (self.ids_restore - self.num_visible) % self.ids_restore.shape[1]

    @property
    def hidden(self):
        """bool [B, N] in the order of the grid, True where hidden."""
        return self.ids_restore >= self.num_visible


def visible_count(count: int, ratio: float, rounding: str = "up") -> int:
    """How many of `count` tokens stay visible at a masking `ratio`.

    `up`: count - floor(ratio·count), VideoMAE's (157 of 1568 at 0.9; 20 of 196). `down`: floor(count·(1 - ratio)), MAE's and
    mae_st's (156 of 1568 at 0.9).

    Raises:
      ValueError: nothing would stay visible or nothing would be masked, or the rounding is unknown.
    """
    if rounding == "up":
        kept = count - int(ratio * count)
    elif rounding == "down":
        kept = int(count * (1 - ratio))
    else:
        raise ValueError(f"mask rounding is {rounding!r}; expected one of {', '.join(ROUNDINGS)}")
    if not 0 < kept < count:
        raise ValueError(
            f"a masking ratio of {ratio} leaves {kept} of {count} tokens (or slots) visible; at least 1 must be visible "
            "and 1 masked: change the ratio, or take smaller patches or a larger input"
        )
    return kept


def from_noise(noise, kept: int) -> Mask:
    """Keeps the `kept` tokens of lowest noise [B, N], in the order of the noise (MAE, mae_st)."""
    shuffle = jnp.argsort(noise, axis=1)
    return Mask(shuffle.astype(jnp.int32), jnp.argsort(shuffle, axis=1).astype(jnp.int32), kept)


def from_hidden(hidden, kept: int) -> Mask:
    """A mask from booleans [B, N], True where hidden; visible and hidden tokens stay in grid order (VideoMAE).

    Every row must leave exactly `kept` tokens visible; this cannot be checked under `jit`.
    """
    return from_noise(hidden.astype(jnp.float32), kept)  # argsort is stable, so ties keep the order of the grid


def draw(noise_key, grid: Grid, kind: str, ratio: float, rounding: str = "up") -> Mask:
    """Draws one mask a sample.

    Args:
      noise_key: one PRNG key a sample, [B].
      grid: the tokens.
      kind: `random` over all tokens (mae_st), `tube` one spatial mask for all slots (VideoMAE), `frame` whole slots.
      ratio: the share that is hidden, of tokens, positions or slots respectively.
      rounding: see `visible_count`.

    Raises:
      ValueError: the kind is unknown or the ratio leaves nothing visible or hidden.
    """
    if kind == "random":
        noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.tokens,)))(noise_key)
        return from_noise(noise, visible_count(grid.tokens, ratio, rounding))
    if kind == "tube":
        kept = visible_count(grid.spatial_patches, ratio, rounding)
        noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.spatial_patches,)))(noise_key)
        hidden = jnp.tile(from_noise(noise, kept).hidden, (1, grid.time_patches))
        return from_hidden(hidden, kept * grid.time_patches)
    if kind == "frame":
        kept = visible_count(grid.time_patches, ratio, rounding)
        noise = jax.vmap(lambda k: jax.random.uniform(k, (grid.time_patches,)))(noise_key)
        hidden = jnp.repeat(from_noise(noise, kept).hidden, grid.spatial_patches, axis=1)
        return from_hidden(hidden, kept * grid.spatial_patches)
    raise ValueError(f"mask kind is {kind!r}; expected one of {', '.join(KINDS)}")


def subsample(mask: Mask, noise_key, grid: Grid, kind: str, share: float) -> Mask:
    """The same mask with only a share of its hidden tokens predicted, as VideoMAEv2's dual masking does.

    Args:
      mask: with all of them predicted.
      noise_key: one PRNG key a sample, [B].
      grid: the tokens.
      kind: `random`, any of them alike; `cell`, those of VideoMAEv2's running cell: of every 2 x 2 positions a share, which moves on by
        one position from slot to slot, so that over time all positions are asked for.
      share: above 0 and at most 1; 1 gives the mask as it is. M is the share of the N - K hidden tokens, rounded down, at least 1.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind not in SUBSAMPLES:
        raise ValueError(f"decoder.subsample is {kind!r}; expected one of {', '.join(SUBSAMPLES)}")
    hidden = mask.ids_shuffle.shape[1] - mask.num_visible
    count = max(1, int(share * hidden))
    if count == hidden:
        return mask
    order = jax.vmap(lambda k: jax.random.uniform(k, (grid.tokens,)))(noise_key)
    if kind == "cell":
        order = order + running_cell(grid)
    order = jnp.argsort(jnp.take_along_axis(order, mask.masked, axis=1), axis=1)
    masked = jnp.take_along_axis(mask.masked, order, axis=1)
    shuffle = jnp.concatenate([mask.ids_keep, masked], axis=1)
    return Mask(shuffle, jnp.argsort(shuffle, axis=1).astype(jnp.int32), mask.num_visible, count)


def running_cell(grid: Grid):
    """When each token's turn comes, float32 [N] of 0, 1, 2, 3: places of a 2 x 2 cell in turn, moved on by one a slot."""
    slot, row, column = jnp.meshgrid(*(jnp.arange(n) for n in grid.shape), indexing="ij")
    place = jnp.array([[0, 1], [3, 2]])[row % 2, column % 2]
    return ((place - slot) % 4).reshape(-1).astype(jnp.float32)


def visible_tokens(grid: Grid, kind: str, ratio: float, rounding: str = "up") -> int:
    """K of a mask that `draw` would make, without drawing it."""
    return jax.eval_shape(lambda k: draw(k, grid, kind, ratio, rounding), jax.random.split(jax.random.key(0), 1)).num_visible


def _gather(x, index):
    return jnp.take_along_axis(x, index[..., None], axis=1, mode="clip")


@jax.custom_vjp
def _permute(x, index, inverse):
    """x[b, index[b, i]] for x [B, N, D] and index [B, M], the first M places of a permutation whose inverse is given."""
    del inverse
    return _gather(x, index)


def _permute_forward(x, index, inverse):
    return _gather(x, index), inverse


def _permute_backward(inverse, gradient):
    absent = inverse.shape[1] - gradient.shape[1]
    gradient = jnp.pad(gradient, ((0, 0), (0, absent), (0, 0)))
    return _gather(gradient, inverse), None, None


_permute.defvjp(_permute_forward, _permute_backward)


def take_visible(x, mask: Mask):
    """Visible tokens [B, K, D] of x [B, N, D]."""
    return _permute(x, mask.ids_keep, mask.ids_restore)


def take_masked(x, mask: Mask):
    """Hidden tokens [B, N - K, D] of x [B, N, D], in the order of `mask.masked`."""
    return _permute(x, mask.masked, mask.restore_hidden_first)


def restore(shuffled, mask: Mask):
    """Tokens [B, N, D] in the order of `mask.ids_shuffle` put back in the order of the grid."""
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


def gather_visible_rows(table, mask: Mask):
    """Rows [B, K, D] of a table [N, D] for the visible tokens; its gradient gathers and sums, it does not scatter."""
    return _rows(table, mask.ids_keep, mask.ids_restore)


def gather_masked_rows(table, mask: Mask):
    """Rows [B, N - K, D] of a table [N, D] for the hidden tokens."""
    return _rows(table, mask.masked, mask.restore_hidden_first)
