"""The masked autoencoder of both branches: MAE, mae_st and VideoMAE are configurations of it."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from cvmae.models import masking
from cvmae.models.backbone import Backbone
from cvmae.models.patches import Grid, normalize_targets, patchify, target_frames
from cvmae.models.positions import Positions
from cvmae.models.vit import Blocks, EncoderOutput, TransformerConfig, dense, layer_norm
from cvmae.parallel.logical_axes import constrain

LAYOUTS = ("unshuffle", "concat")
CLS_KINDS = ("none", "own", "encoder")


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """A decoder.

    Attributes:
      trunk: the blocks.
      layout: `unshuffle` puts mask tokens back in the order of the grid (MAE, mae_st); `concat` puts them after the
        visible tokens (VideoMAE). The predictions are the same function of the set of tokens.
      positions: one of `positions.KINDS`.
      cls: `none`; `own`, a token of the decoder's, the encoder's being dropped (mae_st); `encoder`, the encoder's,
        projected (MAE).
      embed_bias: whether the projection from the encoder has a bias (not in VideoMAE).
      norm_eps: of the last layer norm (1e-5 in transformers' VideoMAE, where the blocks have 1e-12).
      target_frames: how many frames of the clip are predicted, 0 for all; 8 of 16 is mae_st's.
    """

    trunk: TransformerConfig
    layout: str = "unshuffle"
    positions: str = "separable"
    cls: str = "none"
    embed_bias: bool = True
    norm_eps: float = 1e-6
    target_frames: int = 0

    def __post_init__(self):
        for name, value, known in (("layout", self.layout, LAYOUTS), ("cls", self.cls, CLS_KINDS)):
            if value not in known:
                raise ValueError(f"decoder.{name} is {value!r}; expected one of {', '.join(known)}")

    def target_tubelet(self, grid: Grid) -> int:
        """How many predicted frames a token holds.

        Raises:
          ValueError: the predicted frames do not spread evenly over the slots.
        """
        count = self.target_frames or grid.num_frames
        if count % grid.time_patches or count > grid.num_frames:
            raise ValueError(
                f"decoder.target_frames={count} must be a multiple of the {grid.time_patches} slots and at most {grid.num_frames}"
            )
        return count // grid.time_patches


class Decoder(nn.Module):
    """A narrow ViT that predicts hidden patches from visible tokens."""

    spec: DecoderSpec
    grid: Grid

    @nn.compact
    def __call__(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False):
        """Predicts patches, float32 [B, M, P] in the order of `mask.masked`; only tokens that are predicted enter the blocks.

        Args:
          encoded: the encoder's output for `mask`.
          mask: which tokens those are.
          predict_all: give [B, N, P] in the order of the grid instead, visible patches included.

        Raises:
          ValueError: `predict_all` of a mask that is subsampled.
        """
        if predict_all and mask.subsampled:
            raise ValueError(
                "predict_all needs every hidden token, and this mask is subsampled: take it before `masking.subsample`"
            )
        spec, trunk, width = self.spec, self.spec.trunk, self.spec.trunk.size.width
        embed = dense(width, trunk.dtype, "embed", spec.embed_bias)
        table, cls_position = Positions(spec.positions, self.grid, width, spec.cls != "none", name="positions")()
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (width,)).astype(trunk.dtype)
        hidden = (*mask.masked.shape, width)
        if self._in_grid_order(mask):
            x = jnp.concatenate([embed(encoded.tokens), jnp.broadcast_to(mask_token, hidden)], axis=1)
            x = masking.restore(x, mask) + table.astype(trunk.dtype)
        else:
            visible = embed(encoded.tokens) + masking.gather_visible_rows(table, mask).astype(trunk.dtype)
            x = jnp.concatenate([visible, mask_token + masking.gather_masked_rows(table, mask).astype(trunk.dtype)], axis=1)
        if spec.cls != "none":
            x = jnp.concatenate([self._cls(embed, encoded, cls_position), x], axis=1)
        x = Blocks(trunk, name="blocks")(constrain(x, trunk.rules, "batch", "tokens", None))
        x = self._select(x[:, 1:] if spec.cls != "none" else x, mask, predict_all)
        x = layer_norm(spec.norm_eps, trunk.dtype, "norm")(x)
        values = spec.target_tubelet(self.grid) * self.grid.patch**2 * 3
        return dense(values, trunk.dtype, "predict")(x).astype(jnp.float32)

    def _cls(self, embed, encoded: EncoderOutput, position):
        """The first token [B, 1, width]: the decoder's own or the encoder's, with its position."""
        trunk = self.spec.trunk
        if self.spec.cls == "encoder":
            if encoded.cls is None:
                raise ValueError("decoder.cls='encoder' needs an encoder with cls_token=True: set it, or take 'own' or 'none'")
            cls = embed(encoded.cls)[:, None]
        else:
            own = self.param("cls", nn.initializers.normal(0.02), (trunk.size.width,)).astype(trunk.dtype)
            cls = jnp.broadcast_to(own, (encoded.tokens.shape[0], 1, trunk.size.width))
        return cls + position.astype(trunk.dtype)

    def _in_grid_order(self, mask: masking.Mask) -> bool:
        # Without all tokens there is no grid to put them back into; the predictions are the same function of the set of tokens.
        return self.spec.layout == "unshuffle" and not mask.subsampled

    def _select(self, x, mask: masking.Mask, predict_all: bool):
        """The tokens to predict from, out of all tokens in the order of the layout."""
        if not self._in_grid_order(mask):
            return masking.restore(x, mask) if predict_all else x[:, mask.num_visible :]
        return x if predict_all else masking.take_masked(x, mask)


@flax.struct.dataclass
class Targets:
    """What the decoder should say for hidden patches, float32 [B, N - K, P], and how to undo it: x · deviation + mean."""

    values: jax.Array
    mean: jax.Array
    deviation: jax.Array


class Autoencoder(nn.Module):
    """Encoder and decoder over one grid.

    Attributes:
      encoder: the encoder.
      decoder: the decoder; None builds no decoder parameters, for a branch whose reconstruction has no weight.
    """

    encoder: Backbone
    decoder: Decoder | None = None

    def __call__(self, video, mask: masking.Mask):
        """Encodes and predicts: (Encoded, float32 [B, N - K, P])."""
        encoded = self.encode(video, mask)
        return encoded, self.decode(encoded, mask)

    def encode(self, video, mask: masking.Mask | None = None) -> EncoderOutput:
        """See `Encoder`."""
        return self.encoder(video, mask)

    def decode(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False):
        """See `Decoder`."""
        return self.decoder(encoded, mask, predict_all)


def make_targets(video, mask: masking.Mask | None, spec: DecoderSpec, grid: Grid, norm: str) -> Targets:
    """Targets for the hidden patches (for all patches without a mask).

    Args:
      video: [B, T, H, W, C]; normalized pixels for `patch` and `none` (MAE, mae_st), pixels in 0..1 for
        `patch_channel` (VideoMAE).
      mask: which patches are hidden.
      spec: the decoder, which says which frames are predicted.
      grid: how the clip is cut.
      norm: one of `patches.TARGET_NORMS`.
    """
    frames = target_frames(grid.num_frames, spec.target_frames)
    if len(frames) != grid.num_frames:
        video = video[:, frames]
    patches = patchify(video, spec.target_tubelet(grid), grid.patch)
    if mask is not None:
        patches = masking.take_masked(patches, mask)
    return Targets(*normalize_targets(patches, norm))
