"""The Vision Transformer: a table of sizes, the pre-norm block, and the encoder of visible tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models import lanes_attention, masking, rotary
from cvmae.models.attention import AttentionKernel, attend_projected, check_softcap, weights
from cvmae.models.backbone import EncoderOutput
from cvmae.models.choices import check_choice
from cvmae.models.layers import LayerScale, drop_path_rates, drop_samples, gelu, layer_keys, layer_norm, linear, prepend
from cvmae.models.patches import Grid, patches_of
from cvmae.models.positions import PositionEmbedding, Positions
from cvmae.parallel.logical_axes import Rules, constrain

QKVBias = Literal["qkv", "qv", "none"]
QKV_BIASES = get_args(QKVBias)
MLP = Literal["gelu", "gelu_tanh", "swiglu"]
MLPS = get_args(MLP)
WEIGHTS = "attention"  # the collection that every block sows its attention weights into, only where a caller makes it mutable
# The checkpoint policy of each: which values of a block are kept for the backward pass, the rest being recomputed there. `dots` keeps
# every matrix product but those of attention's logits and values, which have batch axes; `kernels` keeps attention's output, and of a
# Pallas kernel the sums that its gradient needs, so that it runs once; `full` keeps the block's input alone.
Remat = Literal["none", "dots", "all_dots", "kernels", "full"]
REMATS: dict[Remat, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "all_dots": jax.checkpoint_policies.dots_saveable,
    "kernels": jax.checkpoint_policies.save_only_these_names(lanes_attention.OUTPUT, lanes_attention.SUMS),
    "full": jax.checkpoint_policies.nothing_saveable,
}
Rotation = Float[AnyArray, "*B N rotated2"] | None


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """Width D, number of blocks, attention heads and hidden width of the MLP over D."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}: change one of them")


VIT_SIZES = {
    "test": ViTSize(32, 2, 2),
    "mini": ViTSize(96, 3, 3),
    "Ti": ViTSize(192, 12, 3),
    "S": ViTSize(384, 12, 6),
    "B": ViTSize(768, 12, 12),
    "L": ViTSize(1024, 24, 16),
    "H": ViTSize(1280, 32, 16),
    "So400m": ViTSize(1152, 27, 16, 4304 / 1152),  # SigLIP
    "g": ViTSize(1408, 40, 16, 6144 / 1408),  # VideoMAEv2
    "g_dinov2": ViTSize(1536, 40, 24, 4096 / 1536),  # with mlp=swiglu
    "g_vjepa2": ViTSize(1408, 40, 22, 6144 / 1408),
}


def decode_variant(variant: str) -> tuple[ViTSize, int]:
    """Reads a variant such as `B/16` into its size and patch side.

    Raises:
      ValueError: the variant is not of that form, or its size is not in VIT_SIZES.
    """
    name, _, patch = variant.partition("/")
    if name not in VIT_SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(f"variant is {variant!r}; expected SIZE/PATCH such as 'B/16', with SIZE one of {', '.join(VIT_SIZES)}")
    return VIT_SIZES[name], int(patch)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The attributes that every block of a stack shares.

    Attributes:
      size: widths, depth and heads.
      qkv_bias: `qkv` for all three, `qv` for query and value only (VideoMAE), `none`.
      eps: of the blocks' layer norms (1e-6 in MAE, mae_st and VideoMAE; 1e-12 in transformers).
      attention: one of ATTENTIONS; `auto` chooses by the platform, the dtype and the number of tokens.
      dtype: of the computation; parameters, softmax and norms' statistics stay float32.
      drop_path: stochastic depth: in training the last block's residual branches are dropped for that fraction of samples, the first
        block's never, with linear steps in between (VideoMAE, MAE).
      remat: one of REMATS.
      scan: run the blocks as a loop over stacked parameters, so that the time to compile does not grow with depth. Parameters and
        results are those of the unrolled stack.
      rules: how activations are sharded over a mesh; None leaves that to XLA, and computes for JAX's default device. Where arrays are
        sharded over several devices, the attention kernels `lanes`, `splash` and `blocked` need them: XLA cannot partition these.
      mlp: the activation: `gelu`, exact, by erf (MAE, mae_st, VideoMAE); `gelu_tanh`, its approximation, which TPUs compute faster
        (SigLIP); `swiglu`, a second linear layer through SiLU as the gate of the first (DINOv2's giant).
      layer_scale: learned factors of each channel of a block's two branches (DINOv2), 1e-5 at the start.
      softcap: c; if above 0, logits l of the attention become c · tanh(l / c) (VideoPrism: 50).
    """

    size: ViTSize
    qkv_bias: QKVBias = "qkv"
    eps: float = 1e-6
    attention: AttentionKernel = "auto"
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    remat: Remat = "none"
    scan: bool = False
    rules: Rules | None = dataclasses.field(default=None, repr=False)
    mlp: MLP = "gelu"
    layer_scale: bool = False
    softcap: float = 0.0

    def __post_init__(self):
        check_choice("qkv_bias", self.qkv_bias, QKVBias)
        check_choice("attention", self.attention, AttentionKernel)
        check_choice("remat", self.remat, Remat)
        check_choice("mlp", self.mlp, MLP)
        check_softcap(self.softcap, self.attention)


class Attention(nn.Module):
    """Multi-head self-attention; with `rotation` (rows of `rotary.table`) queries and keys are rotated."""

    trunk: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], rotation: Rotation = None) -> Float[Array, "B N D"]:
        size, bias, dtype, rules = self.trunk.size, self.trunk.qkv_bias, self.trunk.dtype, self.trunk.rules
        query = linear(size.width, dtype, "query", rules, bias != "none")(x)
        key = linear(size.width, dtype, "key", rules, bias == "qkv")(x)
        value = linear(size.width, dtype, "value", rules, bias != "none")(x)
        if rotation is not None:
            query, key = (rotary.rotate(a, rotation, size.heads) for a in (query, key))
        if self.is_mutable_collection(WEIGHTS) and not self.is_initializing():
            by_head = [rearrange(a, "b n (h d) -> b n h d", h=size.heads) for a in (query, key)]
            self.sow(WEIGHTS, "weights", weights(by_head[0], by_head[1], self.trunk.softcap))
        mixed = attend_projected(query, key, value, size.heads, self.trunk.attention, rules, self.trunk.softcap)
        return linear(size.width, dtype, "out", rules)(mixed)


class Block(nn.Module):
    """A pre-norm transformer block."""

    trunk: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        drop_keys: Key[Array, " B"] | None = None,
        drop_rate: float | Float[Array, ""] = 0.0,
        rotation: Rotation = None,
    ) -> Float[Array, "B N D"]:
        """Returns the block's output; with `drop_keys` its branches are dropped for the fraction `drop_rate` of samples."""
        trunk = self.trunk
        first, second = (None, None) if drop_keys is None else jax.vmap(jax.random.split, out_axes=1)(drop_keys)
        y = Attention(trunk, name="attention")(layer_norm(trunk.eps, trunk.dtype, "norm1")(x), rotation)
        if trunk.layer_scale:
            y = LayerScale(name="layer_scale1")(y)
        x = x + drop_samples(first, y, drop_rate)
        y = mlp_hidden(trunk, layer_norm(trunk.eps, trunk.dtype, "norm2")(x))
        y = linear(trunk.size.width, trunk.dtype, "mlp_out", trunk.rules)(y)
        if trunk.layer_scale:
            y = LayerScale(name="layer_scale2")(y)
        return constrain(x + drop_samples(second, y, drop_rate), trunk.rules, "batch", "tokens", None)


def mlp_hidden(trunk: TransformerConfig, x: Float[Array, "B N D"]) -> Float[Array, "B N hidden"]:
    """The hidden values of a block's MLP, behind its activation."""

    def project(name):
        y = linear(round(trunk.size.width * trunk.size.mlp_ratio), trunk.dtype, name, trunk.rules)(x)
        return constrain(y, trunk.rules, "batch", "tokens", "mlp")

    if trunk.mlp == "swiglu":
        return nn.silu(project("mlp_gate")) * project("mlp_in")
    return gelu(project("mlp_in"), trunk.mlp == "gelu_tanh", trunk.rules)


class Blocks(nn.Module):
    """The stack of blocks; each output is sown as the intermediate `hidden`, and attention weights where WEIGHTS is mutable.

    Attributes:
      trunk: the blocks.
      drop_rates: of each block, where the stack is a part of a deeper one; empty: from 0 to `trunk.drop_path` in linear steps.
    """

    trunk: TransformerConfig
    drop_rates: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], drop_keys: Key[Array, " B"] | None = None, rotation: Rotation = None
    ) -> Float[Array, "B N D"]:
        trunk = self.trunk
        rates = self.drop_rates or drop_path_rates(trunk.drop_path, trunk.size.depth)
        drop_keys = drop_keys if trunk.drop_path else None
        collects = self.is_initializing() or self.is_mutable_collection(WEIGHTS)  # nothing can be sown from within a loop
        if trunk.scan and trunk.size.depth and not collects:
            return self._scan(x, rates, drop_keys, rotation)
        block = Block if trunk.remat == "none" else nn.remat(Block, prevent_cse=True, policy=REMATS[trunk.remat])
        for i, rate in enumerate(rates):
            x = block(trunk, name=f"block{i}")(x, layer_keys(drop_keys, i), rate, rotation)
            self.sow("intermediates", "hidden", x)
        return x

    def _scan(self, x, rates: Sequence[float], drop_keys, rotation):
        """Runs the blocks as a loop over their stacked parameters; the parameters themselves stay those of single blocks.

        Every step pays with a stacked copy of the blocks' parameters, and with another of their gradients: 2.5 GB each for the encoder
        of ViT-H in float32.
        """
        trunk, params = self.trunk, self.variables["params"]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[f"block{i}"] for i in range(trunk.size.depth)))
        block = Block(trunk, parent=None)

        def body(x, layer):
            params, rate, i = layer
            x = block.apply({"params": params}, x, layer_keys(drop_keys, i), rate, rotation)
            return x, x if keep else None

        keep = self.is_mutable_collection("intermediates")
        if trunk.remat != "none":
            body = jax.checkpoint(body, prevent_cse=False, policy=REMATS[trunk.remat])
        layers = (stacked, jnp.asarray(rates, jnp.float32), jnp.arange(trunk.size.depth))
        x, hidden = jax.lax.scan(body, x, layers)
        for i in range(trunk.size.depth if keep else 0):
            self.sow("intermediates", "hidden", hidden[i])
        return x


class Encoder(nn.Module):
    """A ViT over the visible tubelets of a clip.

    Pixels of visible patches are gathered before the embedding, and positions are added to those alone: the numbers are those of
    embedding all patches and dropping tokens afterwards, for a twentieth of the work at the paper's ratio.

    Attributes:
      trunk: the blocks.
      grid: the tokens of a clip.
      positions: one of `positions.KINDS`.
      cls_token: True prepends a learned token (MAE, mae_st).
      final_norm: True adds a layer norm after the last block; transformers' VideoMAE has none when it pools by the mean.
      registers: number of learned tokens between cls and those of patches that are no part of the output (DINOv2 with registers).
    """

    trunk: TransformerConfig
    grid: Grid
    positions: PositionEmbedding
    cls_token: bool = False
    final_norm: bool = True
    registers: int = 0
    takes_patches: ClassVar[bool] = True

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.trunk.size.depth

    @property
    def prefix(self) -> int:
        """Number of tokens in its blocks before those of patches: cls and registers."""
        return self.cls_token + self.registers

    @nn.compact
    def __call__(
        self,
        video: Float[AnyArray, "B T H W C"] | Float[AnyArray, "B N P"],
        mask: masking.Mask | None = None,
        drop_keys: Key[Array, " B"] | None = None,
    ) -> EncoderOutput:
        """Encodes normalized clips, or their patches in the order of the grid; see `backbone.Backbone`. Raises: ValueError, of another grid."""
        trunk, width = self.trunk, self.trunk.size.width
        patches = patches_of(video, self.grid)
        table: AnyArray
        cls_position: AnyArray
        if is_rotary := self.positions == "rope3d":
            table, cls_position = jnp.asarray(rotary.table(self.grid, width // trunk.size.heads)), jnp.zeros(width)
        else:
            table, cls_position = Positions(self.positions, self.grid, width, self.cls_token, name="positions")()
        if mask is not None:
            patches = masking.take_visible(patches, mask)
            table = masking.gather_visible_rows(table, mask)
        x = linear(width, trunk.dtype, "embed", trunk.rules)(patches)
        x = constrain(x if is_rotary else x + table.astype(trunk.dtype), trunk.rules, "batch", "tokens", None)
        rotation = jnp.concatenate([rotary.unrotated(self.prefix, table), table], axis=-2) if is_rotary else None
        if self.registers:
            x = prepend(self.param("registers", nn.initializers.normal(0.02), (self.registers, width)), self.registers, x)
        if self.cls_token:
            x = prepend(self.param("cls", nn.initializers.normal(0.02), (width,)) + cls_position, 1, x)
        x = Blocks(trunk, name="blocks")(x, drop_keys, rotation)
        if self.final_norm:
            x = layer_norm(trunk.eps, trunk.dtype, "norm")(x)
        return EncoderOutput(x[:, self.prefix :] if self.prefix else x, x[:, 0] if self.cls_token else None)
