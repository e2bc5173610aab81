"""The Vision Transformer: a table of sizes, the pre-norm block, and the encoder of visible tokens."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from cvmae.array_types import AnyArray
from cvmae.models import cpu, lanes_attention, masking
from cvmae.models.attention import AttentionKernel, attend_projected, weights
from cvmae.models.choices import check_choice
from cvmae.models.patches import Grid, as_patches
from cvmae.models.positions import PositionEmbedding, Positions
from cvmae.parallel.logical_axes import Rules, constrain

QKVBias = Literal["qkv", "qv", "none"]
QKV_BIASES = get_args(QKVBias)
MLP = Literal["gelu", "gelu_tanh"]
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
      mlp: the activation: `gelu`, exact, by erf (MAE, mae_st, VideoMAE); `gelu_tanh`, its approximation, which TPUs compute faster.
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

    def __post_init__(self):
        check_choice("qkv_bias", self.qkv_bias, QKVBias)
        check_choice("attention", self.attention, AttentionKernel)
        check_choice("remat", self.remat, Remat)
        check_choice("mlp", self.mlp, MLP)


def linear(features: int, dtype, name: str, rules: Rules | None, use_bias: bool = True):
    """A linear layer with the initialization of MAE and VideoMAE: Xavier uniform, zero bias; in the form that suits its devices."""
    dot_general = cpu.dot_general if cpu.is_for_cpu(rules) else None
    return nn.Dense(features, use_bias, dtype, kernel_init=nn.initializers.xavier_uniform(), name=name, dot_general=dot_general)


def gelu(trunk: TransformerConfig, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The activation of a trunk."""
    if trunk.mlp == "gelu" and x.dtype == jnp.float32 and cpu.is_for_cpu(trunk.rules):
        return cpu.gelu(x)
    return nn.gelu(x, approximate=trunk.mlp == "gelu_tanh")


def layer_norm(eps: float, dtype, name: str):
    """Layer norm whose variance is taken in two passes, as PyTorch does."""
    return nn.LayerNorm(eps, dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Multi-head self-attention."""

    trunk: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        size, bias, dtype, rules = self.trunk.size, self.trunk.qkv_bias, self.trunk.dtype, self.trunk.rules
        query = linear(size.width, dtype, "query", rules, bias != "none")(x)
        key = linear(size.width, dtype, "key", rules, bias == "qkv")(x)
        value = linear(size.width, dtype, "value", rules, bias != "none")(x)
        if self.is_mutable_collection(WEIGHTS) and not self.is_initializing():
            self.sow(WEIGHTS, "weights", weights(*(rearrange(a, "b n (h d) -> b n h d", h=size.heads) for a in (query, key))))
        mixed = attend_projected(query, key, value, size.heads, self.trunk.attention, rules)
        return linear(size.width, dtype, "out", rules)(mixed)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """The fraction of samples for which each block's residual branches are dropped: from 0 to `rate` in linear steps."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


def drop_samples(
    keys: Key[Array, " B"] | None, x: Float[Array, " B *axes"], rate: float | Float[Array, ""]
) -> Float[Array, " B *axes"]:
    """Zeroes samples of x with probability `rate` and scales up the rest; one key a sample, None leaves x as it is."""
    if keys is None or (isinstance(rate, float) and not rate):
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    scale = (keep / (1 - rate)).astype(x.dtype)
    return x * scale.reshape(-1, *[1] * (x.ndim - 1))


class Block(nn.Module):
    """A pre-norm transformer block."""

    trunk: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], drop_keys: Key[Array, " B"] | None = None, drop_rate: float | Float[Array, ""] = 0.0
    ) -> Float[Array, "B N D"]:
        """Returns the block's output; with `drop_keys` its branches are dropped for the fraction `drop_rate` of samples."""
        trunk = self.trunk
        first, second = (None, None) if drop_keys is None else jax.vmap(jax.random.split, out_axes=1)(drop_keys)
        y = Attention(trunk, name="attention")(layer_norm(trunk.eps, trunk.dtype, "norm1")(x))
        x = x + drop_samples(first, y, drop_rate)
        y = layer_norm(trunk.eps, trunk.dtype, "norm2")(x)
        y = linear(round(trunk.size.width * trunk.size.mlp_ratio), trunk.dtype, "mlp_in", trunk.rules)(y)
        y = constrain(y, trunk.rules, "batch", "tokens", "mlp")
        y = linear(trunk.size.width, trunk.dtype, "mlp_out", trunk.rules)(gelu(trunk, y))
        return constrain(x + drop_samples(second, y, drop_rate), trunk.rules, "batch", "tokens", None)


class Blocks(nn.Module):
    """The stack of blocks; each output is sown as the intermediate `hidden`, and attention weights where WEIGHTS is mutable."""

    trunk: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], drop_keys: Key[Array, " B"] | None = None) -> Float[Array, "B N D"]:
        trunk = self.trunk
        rates = drop_path_rates(trunk.drop_path, trunk.size.depth)
        drop_keys = drop_keys if trunk.drop_path else None
        collects = self.is_initializing() or self.is_mutable_collection(WEIGHTS)  # nothing can be sown from within a loop
        if trunk.scan and trunk.size.depth and not collects:
            return self._scan(x, rates, drop_keys)
        block = Block if trunk.remat == "none" else nn.remat(Block, prevent_cse=True, policy=REMATS[trunk.remat])
        for i, rate in enumerate(rates):
            x = block(trunk, name=f"block{i}")(x, layer_keys(drop_keys, i), rate)
            self.sow("intermediates", "hidden", x)
        return x

    def _scan(self, x, rates: list[float], drop_keys):
        """Runs the blocks as a loop over their stacked parameters; the parameters themselves stay those of single blocks.

        Every step pays with a stacked copy of the blocks' parameters, and with another of their gradients: 2.5 GB each for the encoder
        of ViT-H in float32.
        """
        trunk, params = self.trunk, self.variables["params"]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[f"block{i}"] for i in range(trunk.size.depth)))
        block = Block(trunk, parent=None)

        def body(x, layer):
            params, rate, i = layer
            x = block.apply({"params": params}, x, layer_keys(drop_keys, i), rate)
            return x, x if keep else None

        keep = self.is_mutable_collection("intermediates")
        if trunk.remat != "none":
            body = jax.checkpoint(body, prevent_cse=False, policy=REMATS[trunk.remat])
        layers = (stacked, jnp.asarray(rates, jnp.float32), jnp.arange(trunk.size.depth))
        x, hidden = jax.lax.scan(body, x, layers)
        for i in range(trunk.size.depth if keep else 0):
            self.sow("intermediates", "hidden", hidden[i])
        return x


def layer_keys(keys: Key[Array, " B"] | None, i) -> Key[Array, " B"] | None:
    """Derives the keys of block i from those of a stack, one a sample; None of None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)


@flax.struct.dataclass
class EncoderOutput:
    """The output of an encoder: tokens [B, K, D] in the order of the mask, and cls [B, D], or None without a cls token."""

    tokens: jax.Array
    cls: jax.Array | None

    @property
    def pooled(self) -> jax.Array:
        """The mean over tokens, float32 [B, D]; the cls token is left out."""
        return self.tokens.astype(jnp.float32).mean(axis=1)


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
    """

    trunk: TransformerConfig
    grid: Grid
    positions: PositionEmbedding
    cls_token: bool = False
    final_norm: bool = True
    takes_patches: ClassVar[bool] = True

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.trunk.size.depth

    @nn.compact
    def __call__(
        self,
        video: Float[AnyArray, "B T H W C"] | Float[AnyArray, "B N P"],
        mask: masking.Mask | None = None,
        drop_keys: Key[Array, " B"] | None = None,
    ) -> EncoderOutput:
        """Encodes normalized clips, or their patches in the order of the grid; see `backbone.Backbone`."""
        trunk, width = self.trunk, self.trunk.size.width
        patches = as_patches(video, self.grid.tubelet, self.grid.patch)
        table, cls_position = Positions(self.positions, self.grid, width, self.cls_token, name="positions")()
        if mask is not None:
            patches = masking.take_visible(patches, mask)
            table = masking.gather_visible_rows(table, mask)
        embedded = linear(width, trunk.dtype, "embed", trunk.rules)(patches)
        x = constrain(embedded + table.astype(trunk.dtype), trunk.rules, "batch", "tokens", None)
        if self.cls_token:
            cls = self.param("cls", nn.initializers.normal(0.02), (width,)) + cls_position
            cls = jnp.broadcast_to(cls.astype(trunk.dtype), (x.shape[0], 1, width))
            x = jnp.concatenate([cls, x], axis=1)
        x = Blocks(trunk, name="blocks")(x, drop_keys)
        if self.final_norm:
            x = layer_norm(trunk.eps, trunk.dtype, "norm")(x)
        return EncoderOutput(x[:, 1:], x[:, 0]) if self.cls_token else EncoderOutput(x, None)
