"""Classifiers on the features of a frozen encoder: many of them trained at once, each on the same features."""

import flax.linen as nn
import jax.numpy as jnp

from cvmae.models.attention import attend
from cvmae.models.vit import Blocks, TransformerConfig, ViTSize, dense, layer_norm
from cvmae.parallel.logical_axes import Rules


class LinearProbe(nn.Module):
    """Logits float32 [B, classes] of features float32 [B, D]; the initialization is that of MAE's linear probe."""

    classes: int

    @nn.compact
    def __call__(self, features):
        return nn.Dense(self.classes, kernel_init=nn.initializers.truncated_normal(0.01), name="head")(features)


class FeatureNorm(nn.Module):
    """Batch norm without scale and bias on [B, D], before a linear probe: MAE's, with torch's momentum of 0.1 and its eps of 1e-6.

    With `train` it takes the statistics of the (global) batch and updates its own.
    """

    @nn.compact
    def __call__(self, features, train: bool):
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-6, use_scale=False, use_bias=False, name="norm")
        return norm(features)


class AttentiveProbe(nn.Module):
    """Logits of all tokens [B, N, D]: blocks of self-attention, then one learned query that attends to the tokens (V-JEPA).

    Attributes:
      classes: how many.
      size: width D of the tokens, number of self-attention blocks (`depth`, may be 0), and heads.
      attention, eps, rules: as in `vit.TransformerConfig`.
    """

    classes: int
    size: ViTSize
    attention: str = "auto"
    eps: float = 1e-6
    rules: Rules | None = None

    @nn.compact
    def __call__(self, tokens):
        width, dtype = self.size.width, tokens.dtype
        trunk = TransformerConfig(self.size, eps=self.eps, attention=self.attention, dtype=dtype, rules=self.rules)
        tokens = Blocks(trunk, name="blocks")(tokens)
        query = self.param("query", nn.initializers.truncated_normal(0.02), (width,)).astype(dtype)
        x = jnp.broadcast_to(query, (tokens.shape[0], 1, width))
        x = x + self._look(x, layer_norm(self.eps, dtype, "norm1")(tokens))
        y = dense(round(width * self.size.mlp_ratio), dtype, "mlp_in")(layer_norm(self.eps, dtype, "norm2")(x))
        x = x + dense(width, dtype, "mlp_out")(nn.gelu(y, approximate=False))
        init = nn.initializers.truncated_normal(0.02)
        return nn.Dense(self.classes, kernel_init=init, name="head")(x[:, 0].astype(jnp.float32))

    def _look(self, query, tokens):
        """What the query [B, 1, D] sees in the tokens [B, N, D]."""

        def heads(name, x):
            return dense(self.size.width, x.dtype, name)(x).reshape(*x.shape[:2], self.size.heads, -1)

        seen = attend(heads("query_in", query), heads("key", tokens), heads("value", tokens), self.attention, self.rules)
        return dense(self.size.width, tokens.dtype, "out")(seen.reshape(query.shape))
