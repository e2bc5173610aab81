"""The factorized encoder of ViViT (model 2 of arXiv 2103.15691) as VideoPrism has it: blocks within frames, then blocks over time."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models.backbone import EncoderOutput
from cvmae.models.layers import drop_path_rates, layer_keys, layer_norm, linear
from cvmae.models.masking import Mask
from cvmae.models.patches import Grid, patches_of
from cvmae.models.positions import PositionEmbedding
from cvmae.models.vit import Blocks, Encoder, TransformerConfig

# Why it is not pre-trained here; `build` says it for a config.
UNMASKED = (
    "a factorized encoder attends within frames and then over time at each position, which needs every token of a clip: it is not "
    "pre-trained from visible tokens"
)


class SpaceAndTimeTables(nn.Module):
    """Learned positions of the patches of a frame, [S, width], and of the time patches, [T', width], float32."""

    grid: Grid
    width: int

    @nn.compact
    def __call__(self) -> tuple[Float[AnyArray, "S width"], Float[AnyArray, "t width"]]:
        init = nn.initializers.truncated_normal(0.02)
        space = self.param("space", init, (self.grid.spatial_patches, self.width))
        return space, self.param("time", init, (self.grid.time_patches, self.width))


class FactorizedEncoder(nn.Module):
    """An encoder whose first blocks attend within each frame, and whose last ones attend over time at each position.

    Attributes:
      trunk: the spatial blocks; the temporal ones differ in their number alone.
      grid: the tokens of a clip.
      temporal_blocks: number of temporal blocks.
      final_norm: True adds a layer norm after the last block; the one behind the spatial blocks is always there.
    """

    trunk: TransformerConfig
    grid: Grid
    temporal_blocks: int
    final_norm: bool = True
    # Attributes that a config gives a ViT, and that this one has one value of.
    cls_token: bool = dataclasses.field(default=False, init=False)
    registers: int = dataclasses.field(default=0, init=False)
    positions: PositionEmbedding = dataclasses.field(default="separable", init=False)

    def __post_init__(self):
        if self.temporal_blocks < 1:
            raise ValueError(f"temporal_blocks={self.temporal_blocks}: a factorized encoder has 1 or more, VideoPrism 4")
        super().__post_init__()

    @property
    def depth(self) -> int:
        """Number of blocks, spatial and temporal."""
        return self.trunk.size.depth + self.temporal_blocks

    @nn.compact
    def __call__(
        self, video: Float[AnyArray, "B T H W C"], mask: Mask | None = None, drop_keys: Key[Array, " B"] | None = None
    ) -> EncoderOutput:
        """Encodes normalized clips; see `backbone.Backbone`. Raises: ValueError, a mask is given, or the clips are of another grid."""
        if mask is not None:
            raise ValueError(UNMASKED)
        trunk, grid, width = self.trunk, self.grid, self.trunk.size.width
        spatial_depth = trunk.size.depth
        rates = tuple(drop_path_rates(trunk.drop_path, self.depth))
        space, time = SpaceAndTimeTables(grid, width, name="positions")()

        x = linear(width, trunk.dtype, "embed", trunk.rules)(patches_of(video, grid))
        x = rearrange(x, "b (t s) d -> (b t) s d", t=grid.time_patches) + space.astype(trunk.dtype)
        keys = _repeat(drop_keys, grid.time_patches)
        x = Blocks(trunk, rates[:spatial_depth], name="blocks")(x, keys)
        x = layer_norm(trunk.eps, trunk.dtype, "space_norm")(x)

        x = rearrange(x, "(b t) s d -> (b s) t d", t=grid.time_patches) + time.astype(trunk.dtype)
        temporal = dataclasses.replace(trunk, size=dataclasses.replace(trunk.size, depth=self.temporal_blocks))
        keys = _repeat(layer_keys(drop_keys, self.depth), grid.spatial_patches)  # other keys than those of spatial blocks
        x = Blocks(temporal, rates[spatial_depth:], name="temporal")(x, keys)
        if self.final_norm:
            x = layer_norm(trunk.eps, trunk.dtype, "norm")(x)
        return EncoderOutput(rearrange(x, "(b s) t d -> b (t s) d", s=grid.spatial_patches), None)


def _repeat(keys: Key[Array, " B"] | None, count: int):
    """Repeats the key of each sample for its rows, so that a branch is dropped for the whole clip or not at all."""
    return None if keys is None else jnp.repeat(keys, count, axis=0)


BlockEncoder = Encoder | FactorizedEncoder  # encoders of `vit.Block`, whose weights other projects have
