"""The masked autoencoder of both branches: MAE, mae_st and VideoMAE are configurations of it."""

import dataclasses
from typing import Literal, get_args

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvmae.array_types import AnyArray
from cvmae.models import masking
from cvmae.models.backbone import Backbone, EncoderOutput
from cvmae.models.choices import check_choice
from cvmae.models.layers import layer_norm, linear
from cvmae.models.patches import Grid, as_patches, normalize_targets, target_frames
from cvmae.models.positions import Positions, PositionTable
from cvmae.models.vit import Blocks, TransformerConfig
from cvmae.parallel.logical_axes import constrain

Layout = Literal["unshuffle", "concat"]
LAYOUTS = get_args(Layout)
DecoderCls = Literal["none", "own", "encoder"]
CLS_KINDS = get_args(DecoderCls)


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """The attributes of a decoder.

    Attributes:
      trunk: the blocks.
      layout: `unshuffle` puts mask tokens back in the order of the grid (MAE, mae_st); `concat` appends them to the visible tokens
        (VideoMAE). The predictions are the same function of the set of tokens.
      positions: one of `positions.TABLES`.
      cls: `none`; `own`, a learned token of the decoder, the encoder's being dropped (mae_st); `encoder`, the encoder's, projected (MAE).
      embed_bias: True gives the projection from the encoder a bias (False in VideoMAE).
      norm_eps: of the last layer norm (1e-5 in transformers' VideoMAE, where the blocks have 1e-12).
      target_frames: number of frames of the clip that are predicted, 0 for all; 8 of 16 is mae_st's.
    """

    trunk: TransformerConfig
    layout: Layout = "unshuffle"
    positions: PositionTable = "separable"
    cls: DecoderCls = "none"
    embed_bias: bool = True
    norm_eps: float = 1e-6
    target_frames: int = 0

    def __post_init__(self):
        check_choice("decoder.layout", self.layout, Layout)
        check_choice("decoder.positions", self.positions, PositionTable)
        check_choice("decoder.cls", self.cls, DecoderCls)

    def target_tubelet(self, grid: Grid) -> int:
        """Number of predicted frames in a token.

        Raises:
          ValueError: the predicted frames do not divide evenly over the time patches.
        """
        count = self.target_frames or grid.num_frames
        if count % grid.time_patches or count > grid.num_frames:
            raise ValueError(
                f"decoder.target_frames={count} must be a multiple of the {grid.time_patches} time patches "
                f"and at most {grid.num_frames}"
            )
        return count // grid.time_patches


@flax.struct.dataclass
class Decoded:
    """Predictions of patches, float32, by the heads of a decoder; None of a head that it lacks.

    Attributes:
      pixels: [B, M, P].
      latents: [B, M, D], of a teacher's features.
    """

    pixels: jax.Array | None
    latents: jax.Array | None


LATENT_HEAD = "predict_latents"  # the head's parameters


class Decoder(nn.Module):
    """A narrow ViT that predicts masked patches from visible tokens: their pixels, features of a teacher, or both.

    Attributes:
      spec: its blocks and tokens.
      grid: of the tokens.
      pixels: False leaves out the head to pixels.
      latent_width: width of the features that a second head predicts; 0 for no such head.
    """

    spec: DecoderSpec
    grid: Grid
    pixels: bool = True
    latent_width: int = 0

    def __call__(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False) -> Float[Array, "B M P"]:
        """Predicts pixels, see `decode_heads`. Raises: ValueError, see there; or the decoder predicts no pixels."""
        pixels = self.decode_heads(encoded, mask, predict_all).pixels
        if pixels is None:
            raise ValueError("this decoder predicts a teacher's features alone: build it with pixels=True")
        return pixels

    @nn.compact
    def decode_heads(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False) -> Decoded:
        """Predicts patches, float32, in the order of `mask.masked`; only tokens that are predicted enter the blocks.

        Args:
          encoded: the encoder's output for `mask`.
          mask: the permutation of the tokens.
          predict_all: True returns all N patches in the order of the grid instead, visible patches included.

        Raises:
          ValueError: `predict_all` with a subsampled mask.
        """
        if predict_all and mask.subsampled:
            raise ValueError(
                "predict_all needs every masked token, and this mask is subsampled: take it before `masking.subsample`"
            )
        spec, trunk, width = self.spec, self.spec.trunk, self.spec.trunk.size.width
        embed = linear(width, trunk.dtype, "embed", trunk.rules, spec.embed_bias)
        table, cls_position = Positions(spec.positions, self.grid, width, spec.cls != "none", name="positions")()
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (width,)).astype(trunk.dtype)
        masked_shape = (*mask.masked.shape, width)
        if self._in_grid_order(mask):
            x = jnp.concatenate([embed(encoded.tokens), jnp.broadcast_to(mask_token, masked_shape)], axis=1)
            x = masking.restore(x, mask) + table.astype(trunk.dtype)
        else:
            visible = embed(encoded.tokens) + masking.gather_visible_rows(table, mask).astype(trunk.dtype)
            x = jnp.concatenate([visible, mask_token + masking.gather_masked_rows(table, mask).astype(trunk.dtype)], axis=1)
        if spec.cls != "none":
            x = jnp.concatenate([self._cls(embed, encoded, cls_position), x], axis=1)
        x = Blocks(trunk, name="blocks")(constrain(x, trunk.rules, "batch", "tokens", None))
        x = self._select(x[:, 1:] if spec.cls != "none" else x, mask, predict_all)
        x = layer_norm(spec.norm_eps, trunk.dtype, "norm")(x)
        patch_dim = spec.target_tubelet(self.grid) * self.grid.patch**2 * 3
        widths = {"predict": patch_dim if self.pixels else 0, LATENT_HEAD: self.latent_width}
        pixels, latents = (
            linear(width, trunk.dtype, name, trunk.rules)(x).astype(jnp.float32) if width else None
            for name, width in widths.items()
        )
        return Decoded(pixels, latents)

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
        # Without all tokens there is no grid to restore; the predictions are the same function of the set of tokens.
        return self.spec.layout == "unshuffle" and not mask.subsampled

    def _select(self, x, mask: masking.Mask, predict_all: bool):
        """Takes the tokens that are predicted from all tokens, which are in the order of the layout."""
        if not self._in_grid_order(mask):
            return masking.restore(x, mask) if predict_all else x[:, mask.num_visible :]
        return x if predict_all else masking.take_masked(x, mask)


@flax.struct.dataclass
class Targets:
    """Reconstruction targets of masked patches, float32 [B, M, P], and what brings them back to pixels: x · std + mean."""

    values: jax.Array
    mean: jax.Array
    std: jax.Array


class Autoencoder(nn.Module):
    """Encoder and decoder over one grid.

    Attributes:
      encoder: the encoder.
      decoder: the decoder; None for a branch whose reconstruction has no weight.
    """

    encoder: Backbone
    decoder: Decoder | None = None

    def __call__(
        self, video: Float[AnyArray, "B T H W C"] | Float[AnyArray, "B N P"], mask: masking.Mask
    ) -> tuple[EncoderOutput, Float[Array, "B M P"]]:
        """Encodes the visible patches and predicts the masked ones, float32."""
        encoded = self.encode(video, mask)
        return encoded, self.decode(encoded, mask)

    def encode(
        self, video: Float[AnyArray, "B T H W C"] | Float[AnyArray, "B N P"], mask: masking.Mask | None = None
    ) -> EncoderOutput:
        """Encodes the visible patches; see `Backbone`."""
        return self.encoder(video, mask)

    def decodes_grid(self, mask: masking.Mask) -> bool:
        """Returns True if it costs little to predict all patches, in the order of the grid, and no token moves by the mask then.

        At a masking ratio of 0.75 or more the visible patches are a small part of the last product; below, moving the masked
        tokens costs less.
        """
        spec = None if self.decoder is None else self.decoder.spec
        many = 4 * mask.num_visible <= mask.ids_shuffle.shape[1]
        return spec is not None and spec.layout == "unshuffle" and not mask.subsampled and many

    def decode(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False) -> Float[Array, "B M P"]:
        """Predicts the pixels of patches; see `Decoder`. Raises: ValueError, there is no decoder."""
        return self._with_decoder()(encoded, mask, predict_all)

    def decode_heads(self, encoded: EncoderOutput, mask: masking.Mask, predict_all: bool = False) -> Decoded:
        """Predicts patches by every head of the decoder; see `Decoder`. Raises: ValueError, there is no decoder."""
        return self._with_decoder().decode_heads(encoded, mask, predict_all)

    def _with_decoder(self) -> Decoder:
        if self.decoder is None:
            raise ValueError("this autoencoder has no decoder: build it with one")
        return self.decoder


def make_targets(
    video: Float[AnyArray, "B T H W C"] | Float[AnyArray, "B N P"],
    mask: masking.Mask | None,
    spec: DecoderSpec,
    grid: Grid,
    norm: str,
) -> Targets:
    """Makes the targets of the masked patches; without a mask of all patches.

    Args:
      video: normalized pixels for `patch` and `none` (MAE, mae_st), pixels in 0..1 for `patch_channel` (VideoMAE); clips, or
        their patches where all frames are predicted.
      mask: the permutation of the patches.
      spec: the decoder, for the frames that it predicts.
      grid: the tokens of a clip.
      norm: one of `patches.TARGET_NORMS`.

    Raises:
      ValueError: `norm` is not one of those.
    """
    frames = target_frames(grid.num_frames, spec.target_frames)
    if len(frames) != grid.num_frames:
        video = video[:, frames]
    patches = as_patches(video, spec.target_tubelet(grid), grid.patch)
    if mask is not None:
        patches = masking.take_masked(patches, mask)
    return Targets(*normalize_targets(patches, norm))


def without_latent_head(params: dict) -> tuple[dict, dict[str, str]]:
    """Returns parameters of an autoencoder without a head to a teacher's features, and what was left out, each with the reason."""
    decoder = params.get("decoder", {})
    if LATENT_HEAD not in decoder:
        return params, {}
    decoder = {key: value for key, value in decoder.items() if key != LATENT_HEAD}
    if "predict" in decoder:
        return params | {"decoder": decoder}, {f"decoder/{LATENT_HEAD}": "the head to a teacher's features"}
    rest = {part: value for part, value in params.items() if part != "decoder"}
    return rest, {"decoder": "it predicts a teacher's features, no pixels"}
