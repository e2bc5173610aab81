"""Projection heads of the contrastive terms, and pooling of visible tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from cvmae.array_types import AnyArray
from cvmae.models.layers import linear
from cvmae.parallel.logical_axes import Rules


class ProjectionHead(nn.Module):
    """An MLP to float32 [..., width], of `layers` layers, all but the last `hidden` wide.

    The head is not stated in the parts of the paper that could be read; two layers to 256 are CrossPoint's, three SimCLRv2's. It has
    no batch norm, whose statistics would differ between a batch and its micro-batches.

    Attributes:
      hidden: width of the hidden layers.
      width: of the output.
      dtype: of the computation.
      layers: number of layers, at least 1.
      rules: of the mesh that it runs on; None for JAX's default device.
    """

    hidden: int
    width: int
    dtype: jnp.dtype = jnp.float32
    layers: int = 2
    rules: Rules | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B width"]:
        for layer in range(1, self.layers):
            x = nn.relu(linear(self.hidden, self.dtype, "hidden" if layer == 1 else f"hidden_{layer}", self.rules)(x))
        return linear(self.width, self.dtype, "out", self.rules)(x).astype(jnp.float32)


def pool(tokens: Float[AnyArray, "B K D"]) -> Float[Array, "B D"]:
    """The mean over tokens, float32."""
    return tokens.astype(jnp.float32).mean(axis=1)


def pool_time_patches(
    tokens: Float[AnyArray, "B K D"],
    token_ids: Int32[AnyArray, "B K"],
    time_patches: Int32[AnyArray, "B F"],
    spatial_patches: int,
) -> tuple[Float[Array, "B F D"], Bool[Array, "B F"]]:
    """The mean over the visible tokens of each of some time patches.

    Args:
      tokens: the visible tokens.
      token_ids: the index of each in the grid (time-major).
      time_patches: the indices along time to pool.
      spatial_patches: S, the tokens of a time patch.

    Returns:
      The means, float32, zero where a time patch has no visible token, and a mask that is False there.
    """
    inside = (token_ids // spatial_patches)[:, None] == time_patches[..., None]
    weights = inside.astype(jnp.float32)
    count = weights.sum(-1, keepdims=True)
    pooled = jnp.einsum("bfk,bkd->bfd", weights, tokens.astype(jnp.float32)) / jnp.maximum(count, 1.0)
    return pooled, count[..., 0] > 0
