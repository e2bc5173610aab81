"""The interface of encoders: the part of a module that decoders, heads, training and evaluation use.

Another encoder is a file of its own in this folder with the module and a function that builds it of a config, a line of
`build.BACKBONES`, and a config that sets `backbone` to its name.
"""

from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models.masking import Mask
from cvmae.models.patches import Grid


@flax.struct.dataclass
class EncoderOutput:
    """The output of an encoder: tokens [B, K, D] in the order of the mask, and cls [B, D], or None without a cls token."""

    tokens: jax.Array
    cls: jax.Array | None

    @property
    def pooled(self) -> jax.Array:
        """The mean over tokens, float32 [B, D]; the cls token is left out."""
        return self.tokens.astype(jnp.float32).mean(axis=1)


@runtime_checkable
class Backbone(Protocol):
    """A Flax module that encodes the visible tokens of a clip.

    Training, decoders, heads and features of the output need no more than this. ViT alone: features of a single block
    (`FeatureSpec.layer`), attention maps and pre-training from patches that are cut before (`takes_patches`); ViT and the factorized
    encoder: layer-wise learning rates and weights of other projects.

    Attributes:
      grid: the tokens that a clip is cut into; a mask is a permutation of them.
      cls_token: True where the output has a cls token.
      final_norm: True where a norm stands after the last block; a classifier that pools the mean sets it to False.
    """

    grid: Grid
    cls_token: bool
    final_norm: bool

    @property
    def depth(self) -> int:
        """Number of blocks."""

    def apply(self, variables, *args: Any, **kwargs: Any) -> Any:
        """Runs the module on its variables; of `flax.linen.Module`."""

    def clone(self, **updates: Any) -> "Backbone":
        """Returns a copy with other attributes; of `flax.linen.Module`."""

    def __call__(
        self, video: Float[AnyArray, "B T H W C"], mask: Mask | None = None, drop_keys: Key[Array, " B"] | None = None
    ) -> EncoderOutput:
        """Encodes clips.

        Args:
          video: normalized pixels.
          mask: of which the first K of N tokens are visible; None: all are.
          drop_keys: one PRNG key a sample, to turn stochastic depth on.

        Returns:
          tokens [B, K, D] in the order of `mask.ids_keep` (without a mask, of the grid), and cls [B, D] or None.
        """

    def init(self, rngs, *args: Any, **kwargs: Any) -> Any:
        """Makes the module's variables; of `flax.linen.Module`."""
