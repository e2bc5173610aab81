"""Projection heads of the contrastive terms, and pooling of visible tokens."""

import flax.linen as nn
import jax.numpy as jnp

from cvmae.models.vit import dense


class ProjectionHead(nn.Module):
    """A 2-layer MLP from [..., D] to float32 [..., width].

    The paper names no head; two layers to 256 are CrossPoint's. It has no batch norm, whose statistics would differ between
    one device and many, and between a batch and its accumulated parts.
    """

    hidden: int
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.relu(dense(self.hidden, self.dtype, "hidden")(x))
        return dense(self.width, self.dtype, "out")(x).astype(jnp.float32)


def pool(tokens):
    """The mean over tokens, float32 [B, D] of [B, K, D]."""
    return tokens.astype(jnp.float32).mean(axis=1)


def pool_slots(tokens, token_ids, slots, positions: int):
    """The mean over those visible tokens that lie in given slots.

    Args:
      tokens: [B, K, D], visible tokens.
      token_ids: int32 [B, K], where each lies in the grid (time-major).
      slots: int32 [B, F], the slots to pool.
      positions: S, tokens in a slot.

    Returns:
      float32 [B, F, D], zero where a slot has no visible token, and bool [B, F], False there.
    """
    inside = (token_ids // positions)[:, None] == slots[..., None]
    weights = inside.astype(jnp.float32)
    count = weights.sum(-1, keepdims=True)
    pooled = jnp.einsum("bfk,bkd->bfd", weights, tokens.astype(jnp.float32)) / jnp.maximum(count, 1.0)
    return pooled, count[..., 0] > 0
