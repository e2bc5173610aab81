"""A video encoder with a classification head: VideoMAE's, mae_st's and transformers' fine-tuned models."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models.backbone import Backbone
from cvmae.models.choices import check_choice
from cvmae.models.heads import pool
from cvmae.models.vit import EncoderOutput, layer_norm

Pool = Literal["mean", "first"]
POOLS = get_args(Pool)
Loss = Literal["softmax", "sigmoid"]  # cross-entropy of one class, or of every class by itself where clips have several labels
LOSSES = get_args(Loss)


def dropout(x: Float[Array, " B *D"], rate: float, keys: Key[Array, " B"] | None) -> Float[Array, " B *D"]:
    """Zeroes a fraction `rate` of x and scales the rest by 1 / (1 - rate); row b depends on `keys[b]` alone.

    With one key a sample the result is the same on any number of devices, which Flax's own dropout does not promise. No keys: no
    dropout.
    """
    if keys is None or not rate:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0.0)


class Classifier(nn.Module):
    """An encoder and a linear head. The parameters are named `encoder`, `norm` (with `mean`) and `head`.

    Attributes:
      encoder: the encoder; with `mean` it has final_norm=False in VideoMAE, mae_st and transformers, as `norm` replaces its last
        norm, with `first` final_norm=True.
      classes: number of classes.
      pool: `mean` over tokens, cls left out, then a layer norm (VideoMAE, mae_st); `first`: the cls token, or without one the
        first patch token (transformers' use_mean_pooling=False), without another norm.
      dropout: fraction of the pooled features that is zeroed in training.
      init_scale: the head is initialized from a truncated normal of standard deviation 0.02 times this (VideoMAE, mae_st: 0.001).
      eps: of `norm` (1e-6 in VideoMAE and mae_st; 1e-5 in transformers, whatever its config's layer_norm_eps).
    """

    encoder: Backbone
    classes: int
    pool: Pool = "mean"
    dropout: float = 0.0
    init_scale: float = 0.001
    eps: float = 1e-6

    @nn.compact
    def __call__(self, video: Float[AnyArray, "B T H W C"], keys: Key[Array, " B"] | None = None) -> Float[Array, "B classes"]:
        """Returns logits, float32.

        Args:
          video: normalized clips.
          keys: one PRNG key a sample, for dropout and the encoder's stochastic depth; None turns both off.

        Raises:
          ValueError: `pool` is unknown.
        """
        check_choice("pool", self.pool, Pool)
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
        first = encoded.tokens[:, 0] if encoded.cls is None else encoded.cls
        return first.astype(jnp.float32)
