"""A video encoder with a classification head: VideoMAE's, mae_st's and transformers' fine-tuned models."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models.attention import AttentionKernel
from cvmae.models.backbone import Backbone, EncoderOutput
from cvmae.models.choices import check_choice
from cvmae.models.heads import pool
from cvmae.models.layers import dropout, layer_norm
from cvmae.models.probes import AttentivePooler
from cvmae.models.vit import Remat, ViTSize
from cvmae.parallel.logical_axes import Rules

Pool = Literal["mean", "first", "attentive"]
POOLS = get_args(Pool)
Loss = Literal["softmax", "sigmoid"]  # cross-entropy of one class, or of every class by itself where clips have several labels
LOSSES = get_args(Loss)


class Classifier(nn.Module):
    """An encoder and a linear head. The parameters are named `encoder`, `norm` (with `mean`), `pooler` (with `attentive`) and `head`.

    Attributes:
      encoder: the encoder; with `mean` it has final_norm=False in VideoMAE, mae_st and transformers, as `norm` replaces its last
        norm, with `first` final_norm=True.
      classes: number of classes.
      pool: `mean` over tokens, cls left out, then a layer norm (VideoMAE, mae_st); `first`: the cls token, or without one the
        first patch token (transformers' use_mean_pooling=False), without another norm; `attentive`: an `AttentivePooler` over the
        tokens (V-JEPA 2).
      dropout: fraction of the pooled features that is zeroed in training.
      init_scale: the head is initialized from a truncated normal of standard deviation 0.02 times this (VideoMAE, mae_st: 0.001).
      eps: of `norm` (1e-6 in VideoMAE and mae_st; 1e-5 in transformers, whatever its config's layer_norm_eps), or of the pooler's norms.
      pooler: the size of the pooler of `attentive`: width D, its blocks of self-attention and heads.
      attention, rules, remat: of the pooler, as in `vit.TransformerConfig`.
    """

    encoder: Backbone
    classes: int
    pool: Pool = "mean"
    dropout: float = 0.0
    init_scale: float = 0.001
    eps: float = 1e-6
    pooler: ViTSize | None = None
    attention: AttentionKernel = "auto"
    rules: Rules | None = None
    remat: Remat = "none"

    @nn.compact
    def __call__(self, video: Float[AnyArray, "B T H W C"], keys: Key[Array, " B"] | None = None) -> Float[Array, "B classes"]:
        """Returns logits, float32.

        Args:
          video: normalized clips.
          keys: one PRNG key a sample, for dropout and the encoder's stochastic depth; None turns both off.

        Raises:
          ValueError: `pool` is unknown, or has no size of its pooler.
        """
        check_choice("pool", self.pool, Pool)
        if self.pool == "attentive" and self.pooler is None:
            raise ValueError("pool='attentive' needs the size of its pooler: give `pooler`")
        if keys is None:
            encoded = self.encoder(video)
        else:
            pairs = jax.vmap(jax.random.split)(keys)
            keys, drop_keys = pairs[:, 0], pairs[:, 1]
            encoded = self.encoder(video, drop_keys=drop_keys)
        features = dropout(self._features(encoded), self.dropout, keys)
        init = nn.initializers.truncated_normal(0.02 * self.init_scale)
        return nn.Dense(self.classes, kernel_init=init, name="head")(features)

    def _features(self, encoded: EncoderOutput):
        """The head's input, float32 [B, D]."""
        if self.pool == "mean":
            return layer_norm(self.eps, jnp.float32, "norm")(pool(encoded.tokens))
        if self.pooler is not None and self.pool == "attentive":
            pooler = AttentivePooler(self.pooler, self.attention, self.eps, self.rules, False, self.remat, name="pooler")
            return pooler(encoded.tokens)
        first = encoded.tokens[:, 0] if encoded.cls is None else encoded.cls
        return first.astype(jnp.float32)
