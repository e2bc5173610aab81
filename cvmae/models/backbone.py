"""The interface of encoders: what decoders, heads, training and evaluation use of the module that a config's `backbone` names.

Another encoder is a file of its own in this folder with the module and a function that builds it of a config, a line of
`build.BACKBONES`, and a config that sets `backbone` to its name.
"""

from typing import Protocol

from cvmae.models.masking import Mask
from cvmae.models.patches import Grid
from cvmae.models.vit import EncoderOutput


class Backbone(Protocol):
    """A Flax module that encodes the visible tokens of a clip.

    Training, decoders, heads and features of the output need no more than this. ViT alone: features of a single block
    (`FeatureSpec.layer`), attention maps, layer-wise learning rates, and weights of other projects.

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

    def __call__(self, video, mask: Mask | None = None, drop_keys=None) -> EncoderOutput:
        """Encodes clips.

        Args:
          video: [B, T, H, W, C], normalized pixels.
          mask: which tokens are visible, K of N; None: all.
          drop_keys: one PRNG key a sample, [B], turn stochastic depth on.

        Returns:
          tokens [B, K, D] in the order of `mask.ids_keep` (without a mask, of the grid), and cls [B, D] or None.
        """
