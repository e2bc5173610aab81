"""The weights that pictures are drawn from."""

import flax.struct
import jax

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.vit import Encoder
from cvmae.visualize.reconstruction import Predicted


@flax.struct.dataclass
class Branch:
    """One branch of the method.

    Attributes:
      params: `encoder`, and `decoder` where there is one.
      encoder: the module, for the clips (or frames: one frame a clip) that are drawn.
      decoder: what the decoder is; None without one.
      norm: what it says, one of `reconstruction.NORMS`.
      mean, std: what pixels were standardised with where it learned that.
      missing: why there is no decoder, for captions.
    """

    params: dict
    encoder: Encoder = flax.struct.field(pytree_node=False)
    decoder: DecoderSpec | None = flax.struct.field(pytree_node=False, default=None)
    norm: str = flax.struct.field(pytree_node=False, default="")
    mean: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    std: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    missing: str = flax.struct.field(pytree_node=False, default="")

    @property
    def predicted(self) -> Predicted:
        """What the decoder's predictions are."""
        return Predicted(self.decoder, self.encoder.grid, self.norm, self.mean, self.std)

    def predict(self, params, clips, mask: masking.Mask) -> jax.Array:
        """The decoder's predictions for standardised clips, float32 [B, N - K, P]; `params` as the attribute."""
        module = Autoencoder(self.encoder, Decoder(self.decoder, self.encoder.grid))
        return module.apply({"params": params}, clips, mask)[1]


@flax.struct.dataclass
class Branches:
    """Both branches, the image's only where the weights have one."""

    video: Branch
    image: Branch | None = None
