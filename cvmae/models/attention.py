"""Softmax attention by several kernels that give the same numbers, and the choice between them.

    einsum  plain matrix products; the weights [B, heads, N, N] are an array.
    blocked the same by blocks of queries, one head after another: the weights stay in a CPU's caches. Any platform.
    xla     jax.nn.dot_product_attention as XLA compiles it; any platform, any dtype.
    cudnn   cuDNN's flash attention; GPUs of compute capability 8.0 and above, bfloat16 or float16, heads of 8 to 128 numbers.
    lanes   this package's Pallas kernel for TPUs, on queries, keys and values as the projections give them; interpreted, and slow, on CPU.
    splash  JAX's Pallas kernel for TPUs, on tiles of tokens by head; interpreted, and slow, on CPU.

A flash kernel never stores the weights as an array: at the 1,569 tokens of a decoder they are most of what a training step holds.
"""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jaxtyping import Array, Float

from cvmae.models import blocked_attention, lanes_attention
from cvmae.parallel.logical_axes import Rules, constrain, shard_map_local, target_device

AttentionKernel = Literal["auto", "einsum", "blocked", "xla", "cudnn", "lanes", "splash"]
ATTENTIONS = get_args(AttentionKernel)
PALLAS = ("lanes", "splash")  # kernels for TPUs, which CPUs interpret
HEADS = ("batch", None, "heads", None)  # the axes of query, key and value; every device has all tokens of its clips and heads
AMPERE = 8.0  # the compute capability from which cuDNN has flash attention
TILE = 128  # of tokens on a TPU: the lanes of a vector register
LARGEST_BLOCK = 768  # with what its gradient keeps beside it this fits the on-chip memory of a v4, the smallest
MANY = 512  # tokens, from which weights are larger than queries, keys and values together by far, and a kernel without them pays


def choose(kernel: str, device, dtype, tokens: int, heads: int, width: int, rules: Rules | None, softcap: float = 0.0) -> str:
    """Returns the kernel that `auto` stands for here; any other name is returned as it is.

    `auto` takes a Pallas kernel only with rules: XLA cannot partition it, and arrays without rules may be sharded.

    Args:
      kernel: one of ATTENTIONS.
      device: that the program is compiled for.
      dtype: of query, key and value.
      tokens: number of queries or of keys, the smaller of both.
      heads: number of heads.
      width: of one head.
      rules: of the module.
      softcap: of the logits, see `attend`; above 0 it is `einsum` that `auto` stands for.

    Raises:
      ValueError: the kernel has no soft cap.
    """
    check_softcap(softcap, kernel)
    if softcap:
        return "einsum"
    if kernel != "auto":
        return kernel
    if device.platform == "cpu":
        return "blocked" if tokens >= MANY else "einsum"
    if device.platform == "tpu":
        if tokens < MANY or rules is None:
            return "xla"
        return "splash" if why_not("lanes", device, dtype, tokens, heads, width, rules) else "lanes"
    return "xla" if why_not_cudnn(device, dtype, width) else "cudnn"


def why_not(kernel: str, device, dtype, tokens: int, heads: int, width: int, rules: Rules | None) -> str:
    """Returns why a kernel cannot run; empty if it can. Arguments: see `choose`."""
    if kernel == "cudnn":
        return why_not_cudnn(device, dtype, width)
    if kernel in PALLAS and device.platform not in ("tpu", "cpu"):
        return f"it is a TPU's kernel, this is {device.platform}"
    if kernel == "lanes":
        local, itemsize = _local_heads(heads, rules), jnp.dtype(dtype).itemsize
        fits = lanes_attention.make_layout(local, width, tokens, tokens, itemsize, lanes_attention.vmem_of(device))
        return "" if fits else _too_much_for_lanes(local, width, tokens)
    return ""


def runnable(device, dtype, tokens: int, heads: int, width: int, rules: Rules | None) -> list[str]:
    """Returns the kernels that can run, without those that a CPU would interpret. Arguments: see `choose`."""
    compiled = [kernel for kernel in ATTENTIONS if device.platform != "cpu" or kernel not in PALLAS]
    return [kernel for kernel in compiled if not why_not(kernel, device, dtype, tokens, heads, width, rules)]


def why_not_cudnn(device, dtype, width: int) -> str:
    """Returns why cuDNN's kernel cannot run; empty if it can. Arguments: see `choose`."""
    capability = getattr(device, "compute_capability", None)
    if capability is None or float(capability) < AMPERE:
        return f"it needs a GPU of compute capability {AMPERE} or above, this is {device.device_kind} ({capability or device.platform})"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, this is {jnp.dtype(dtype).name}"
    return "" if width % 8 == 0 and width <= 128 else f"it takes heads of 8, 16, ... 128 numbers, these have {width}"


def attend_projected(
    query: Float[Array, "B Nq D"],
    key: Float[Array, "B Nk D"],
    value: Float[Array, "B Nk D"],
    heads: int,
    kernel: str,
    rules: Rules | None = None,
    softcap: float = 0.0,
) -> Float[Array, "B Nq D"]:
    """Softmax attention of arrays as the projections give them, D = heads · width; see `attend`.

    Its result has the name `lanes_attention.OUTPUT` for checkpoint policies, whatever the kernel.
    """
    device, width = target_device(rules), query.shape[-1] // heads
    tokens = min(query.shape[1], key.shape[1])
    kernel = choose(kernel, device, query.dtype, tokens, heads, width, rules, softcap)
    if kernel == "lanes":
        return _lanes(query, key, value, heads, rules, device)

    def split(array):
        return constrain(rearrange(array, "b n (h d) -> b n h d", h=heads), rules, "batch", "tokens", "heads", None)

    mixed = attend(split(query), split(key), split(value), kernel, rules, softcap)
    return checkpoint_name(rearrange(mixed, "b n h d -> b n (h d)"), lanes_attention.OUTPUT)


def attend(
    query: Float[Array, "B Nq heads width"],
    key: Float[Array, "B Nk heads width"],
    value: Float[Array, "B Nk heads width"],
    kernel: str,
    rules: Rules | None = None,
    softcap: float = 0.0,
) -> Float[Array, "B Nq heads width"]:
    """Softmax attention with the scale 1 / √width; the softmax is taken in float32.

    The kernel follows from the arguments and JAX's default device alone, so that a module is the same program wherever it is called.

    Args:
      query, key, value: of one dtype, which is that of the result.
      kernel: one of ATTENTIONS.
      rules: how arrays are sharded over which devices; None: not at all, on JAX's default device.
      softcap: c; if above 0, logits l become c · tanh(l / c), which only `einsum` computes, and `auto` stands for it.

    Raises:
      ValueError: the kernel does not run on the devices that the program is for, or not on this dtype or width, or has no soft cap.
    """
    device = target_device(rules)
    heads, width = query.shape[2:]
    tokens = min(query.shape[1], key.shape[1])
    kernel = choose(kernel, device, query.dtype, tokens, heads, width, rules, softcap)
    if kernel == "einsum":
        return _einsum(query, key, value, softcap)
    if kernel == "blocked":
        return shard_map_local(blocked_attention.attend, rules, HEADS, query, key, value)
    if kernel == "xla":
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")
    if kernel == "cudnn":
        reason = why_not_cudnn(device, query.dtype, width)
        if reason:
            raise ValueError(f"attention='cudnn': {reason}; take attention='xla' or 'auto'")
        return _even(query, key, value, "cudnn")
    if kernel == "lanes":
        q, k, v = (rearrange(array, "b n h d -> b n (h d)") for array in (query, key, value))
        return _lanes(q, k, v, heads, rules, device).reshape(query.shape)
    _check_pallas("splash", device)
    return _splash(query, key, value, rules, interpret=device.platform == "cpu")


def check_softcap(softcap: float, kernel: str) -> None:
    """Raises ValueError for a soft cap with a kernel that has none."""
    if softcap and kernel not in ("auto", "einsum"):
        raise ValueError(f"attention={kernel!r} has no soft cap of logits, and softcap is {softcap:g}: take attention='auto'")


def weights(
    query: Float[Array, "B Nq heads width"], key: Float[Array, "B Nk heads width"], softcap: float = 0.0
) -> Float[Array, "B heads Nq Nk"]:
    """The softmax weights, float32."""
    return jax.nn.softmax(_logits(query, key, softcap), axis=-1)


def _logits(query, key, softcap: float):
    logits = jnp.einsum("bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def _einsum(query, key, value, softcap: float):
    """Divides by the weights' sum last, where there are fewer numbers: 0.8 of the time of a softmax before the product on CPU."""
    logits = _logits(query, key, softcap)
    raw = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", raw.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / rearrange(raw.sum(-1), "b h q -> b q h 1")).astype(value.dtype)


def _local_heads(heads: int, rules: Rules | None) -> int:
    """Number of heads on one device: all of them where they do not divide by the devices that would share them."""
    axes = None if rules is None else rules.spec(("heads",), (heads,))[0]
    if rules is None or axes is None:
        return heads
    return heads // math.prod(rules.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def _check_pallas(kernel: str, device) -> None:
    if device.platform not in ("tpu", "cpu"):
        raise ValueError(f"attention={kernel!r} is a TPU's kernel, this is {device.platform}; take attention='cudnn' or 'auto'")


def _too_much_for_lanes(heads: int, width: int, tokens: int) -> str:
    return (
        f"it cannot take {heads} heads of {width} over {tokens} tokens on a device: heads must be multiples of 8 wide, "
        f"groups of them that fill registers at most {lanes_attention.WIDEST_GROUP} lanes, and a block must fit its memory"
    )


def _lanes(query, key, value, heads: int, rules: Rules | None, device):
    """Runs the kernel on each device's clips and whole heads of [B, N, heads · width]."""
    _check_pallas("lanes", device)
    width = query.shape[-1] // heads
    names = ("batch", None, "heads" if _local_heads(heads, rules) < heads else None)
    kernel = functools.partial(_lanes_local, width=width, device=device)
    return shard_map_local(kernel, rules, names, query * width**-0.5, key, value)


def _lanes_local(query, key, value, width: int, device):
    """Attention of a device's heads, each `width` lanes of [B, N, lanes]."""
    heads, keys = query.shape[2] // width, key.shape[1]
    layout = lanes_attention.make_layout(
        heads, width, query.shape[1], keys, query.dtype.itemsize, lanes_attention.vmem_of(device)
    )
    if layout is None:
        raise ValueError(f"attention='lanes': {_too_much_for_lanes(heads, width, keys)}; take attention='auto' or 'splash'")
    return lanes_attention.attend(query, key, value, layout, device.platform == "cpu")


def _even(query, key, value, implementation: Literal["cudnn", "xla"]):
    """jax.nn.dot_product_attention with a token more where their number is odd; as a key it is masked, as a query left out again.

    JAX refuses gradients of cuDNN's kernel for odd numbers, which concern a bias only: its placeholder for none counts as one
    (`check_is_flash_attention` in jax/_src/cudnn/fused_attention_stablehlo.py of 0.10.2 and 0.12.0).
    """
    queries, keys = query.shape[1], key.shape[1]
    query, key, value = (_pad_to_blocks(array, 2) for array in (query, key, value))
    lengths = jnp.full(key.shape[0], keys, jnp.int32) if keys % 2 else None
    attend_even = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    return attend_even(query, key, value, key_value_seq_lengths=lengths)[:, :queries]


def block_size(tokens: int) -> int:
    """Number of tokens of a tile: a multiple of TILE, at most LARGEST_BLOCK, that needs the least padding; of equals the largest."""
    blocks = range(TILE, LARGEST_BLOCK + 1, TILE)
    few = [block for block in blocks if block >= min(tokens, LARGEST_BLOCK // 2)]
    return min(few or blocks, key=lambda block: (-(-tokens // block) * block, -block))


def _splash(query, key, value, rules: Rules | None, interpret: bool):
    """Runs the kernel on each device's clips and heads: XLA cannot partition a Pallas kernel by itself."""
    block = block_size(key.shape[1])
    kernel = functools.partial(_splash_local, keys=key.shape[1], block=block, interpret=interpret)
    padded = (_pad_to_blocks(array, block) for array in (query * query.shape[-1] ** -0.5, key, value))
    return shard_map_local(kernel, rules, HEADS, *padded)[:, : query.shape[1]]


def _pad_to_blocks(tokens, block: int):
    """Adds zeros to [B, N, heads, width] so that N is a multiple of `block`."""
    missing = -tokens.shape[1] % block
    return jnp.pad(tokens, ((0, 0), (0, missing), (0, 0), (0, 0)))


def _splash_local(query, key, value, keys: int, block: int, interpret: bool):
    """Attention of [B, N, heads, width] to the first `keys` keys."""
    real = np.arange(key.shape[1])[None] < keys
    mask = splash_mask.NumpyMask(np.broadcast_to(real, (query.shape[1], key.shape[1])).copy())
    attention = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * query.shape[2]),
        block_sizes=_block_sizes(block),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=lanes_attention.SUMS,
        interpret=interpret,
    )
    by_head = (rearrange(array, "b n h d -> b h n d") for array in (query, key, value))
    return rearrange(jax.vmap(attention)(*by_head), "b h n d -> b n h d")


def _block_sizes(block: int) -> splash_kernel.BlockSizes:
    """Tiles of one size in the forward and the backward pass."""
    return splash_kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
