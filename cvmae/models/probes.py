"""Classifiers on the features of a frozen encoder, for a grid of them that is trained at once on the same features."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvmae.models.attention import AttentionKernel, attend
from cvmae.models.layers import gelu, layer_norm, linear
from cvmae.models.vit import Blocks, Remat, TransformerConfig, ViTSize
from cvmae.parallel.logical_axes import Rules


class LinearProbe(nn.Module):
    """A linear head with the initialization of MAE's linear probe."""

    classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "B D"]) -> Float[Array, "B classes"]:
        return nn.Dense(self.classes, kernel_init=nn.initializers.truncated_normal(0.01), name="head")(features)


class FeatureNorm(nn.Module):
    """Batch norm without scale and bias before a linear probe: MAE's, with torch's momentum of 0.1 and its eps of 1e-6.

    With `train` it takes the statistics of the (global) batch and updates the running ones, else it takes the running ones.
    """

    @nn.compact
    def __call__(self, features: Float[Array, "B D"], train: bool) -> Float[Array, "B D"]:
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-6, use_scale=False, use_bias=False, name="norm")
        return norm(features)


class AttentivePooler(nn.Module):
    """Pools tokens by attention (V-JEPA): blocks of self-attention over all of them, then one learned query that attends to them.

    Attributes:
      size: width D of the tokens, number of self-attention blocks (`depth`, may be 0), and heads.
      attention, eps, rules, remat: as in `vit.TransformerConfig`.
      project: False leaves out the linear layer behind the query's attention (V-JEPA 2).
    """

    size: ViTSize
    attention: AttentionKernel = "auto"
    eps: float = 1e-6
    rules: Rules | None = None
    project: bool = True
    remat: Remat = "none"

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """Returns the pooled features, float32."""
        width, dtype, rules = self.size.width, tokens.dtype, self.rules
        trunk = TransformerConfig(self.size, eps=self.eps, attention=self.attention, dtype=dtype, remat=self.remat, rules=rules)
        tokens = Blocks(trunk, name="blocks")(tokens)
        query = self.param("query", nn.initializers.truncated_normal(0.02), (width,)).astype(dtype)
        x = jnp.broadcast_to(query, (tokens.shape[0], 1, width))
        x = x + self._cross_attention(x, layer_norm(self.eps, dtype, "norm1")(tokens))
        y = linear(round(width * self.size.mlp_ratio), dtype, "mlp_in", rules)(layer_norm(self.eps, dtype, "norm2")(x))
        x = x + linear(width, dtype, "mlp_out", rules)(gelu(y, False, rules))
        return x[:, 0].astype(jnp.float32)

    def _cross_attention(self, query, tokens):
        """Attends from the query [B, 1, D] to the tokens [B, N, D]; returns [B, 1, D]."""

        def to_heads(name, x):
            return linear(self.size.width, x.dtype, name, self.rules)(x).reshape(*x.shape[:2], self.size.heads, -1)

        heads = to_heads("query_in", query), to_heads("key", tokens), to_heads("value", tokens)
        mixed = attend(*heads, self.attention, self.rules).reshape(query.shape)
        return linear(self.size.width, tokens.dtype, "out", self.rules)(mixed) if self.project else mixed


class AttentiveProbe(nn.Module):
    """An attentive probe (V-JEPA): a linear head on an `AttentivePooler`, whose parameters stand beside its own.

    Attributes:
      classes: number of classes.
      size, attention, eps, rules, remat: of the pooler.
    """

    classes: int
    size: ViTSize
    attention: AttentionKernel = "auto"
    eps: float = 1e-6
    rules: Rules | None = None
    remat: Remat = "none"

    def setup(self):
        self.pooler = AttentivePooler(self.size, self.attention, self.eps, self.rules, remat=self.remat)
        nn.share_scope(self, self.pooler)
        self.head = nn.Dense(self.classes, kernel_init=nn.initializers.truncated_normal(0.02))

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B classes"]:
        """Returns logits, float32."""
        return self.head(self.pooler(tokens))
