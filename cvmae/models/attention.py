"""Softmax attention by several kernels that give the same numbers, and the choice between them.

    einsum  plain matrix products; the weights [B, heads, N, N] are an array.
    blocked the same by blocks of queries, one head after another: the weights stay in a CPU's caches. Any platform.
    xla     jax.nn.dot_product_attention as XLA compiles it; any platform, any dtype.
    cudnn   cuDNN's flash attention; GPUs of compute capability 8.0 and above, bfloat16 or float16, heads of 8 to 128 numbers.
    splash  JAX's Pallas kernel for TPUs, on tiles of tokens; interpreted, and slow, on CPU.

The weights of a flash kernel never lie in memory whole: at the 1,569 tokens of a decoder that is most of what a training step holds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from cvmae.models import blocked_attention
from cvmae.parallel.logical_axes import Rules, shard_map_local, target_device

ATTENTIONS = ("auto", "einsum", "blocked", "xla", "cudnn", "splash")
HEADS = ("batch", None, "heads", None)  # the axes of query, key and value; every device has all tokens of its clips and heads
AMPERE = 8.0  # the compute capability from which cuDNN has flash attention
TILE = 128  # of tokens on a TPU: the lanes of a vector register
LARGEST_BLOCK = 768  # with what its gradient keeps beside it this fits the on-chip memory of a v4, the smallest
MANY = 512  # tokens, from which weights are larger than queries, keys and values together by far, and a kernel without them pays


def choose(kind: str, device, dtype, tokens: int, width: int, rules: Rules | None) -> str:
    """Returns the kernel that `kind` stands for: itself, but for `auto`.

    `auto` takes the Pallas kernel only with rules: XLA cannot partition it, and without rules nothing says whether arrays are sharded.

    Args:
      kind: one of ATTENTIONS.
      device: that the program is for.
      dtype: of query, key and value.
      tokens: how many there are, of queries or keys, whichever are fewer.
      width: of one head.
      rules: of the module.
    """
    if kind != "auto":
        return kind
    if device.platform == "cpu":
        return "blocked" if tokens >= MANY else "einsum"
    if device.platform == "tpu":
        return "splash" if tokens >= MANY and rules is not None else "xla"
    return "xla" if why_not_cudnn(device, dtype, width) else "cudnn"


def why_not_cudnn(device, dtype, width: int) -> str:
    """Why cuDNN's kernel cannot run; empty where it can. Arguments: see `choose`."""
    capability = getattr(device, "compute_capability", None)
    if capability is None or float(capability) < AMPERE:
        return f"it needs a GPU of compute capability {AMPERE} or above, this is {device.device_kind} ({capability or device.platform})"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, this is {jnp.dtype(dtype).name}"
    return "" if width % 8 == 0 and width <= 128 else f"it takes heads of 8, 16, ... 128 numbers, these have {width}"


def attend(query, key, value, kind: str, rules: Rules | None = None):
    """Softmax attention with the scale 1 / √width.

    Args:
      query, key, value: [B, N, heads, width], of one dtype.
      kind: one of ATTENTIONS.
      rules: how arrays are sharded over which devices; None: not at all, on JAX's default device.

    Returns:
      [B, N, heads, width] of that dtype; the softmax is taken in float32.

    Raises:
      ValueError: the kernel does not run on the devices that the program is for, or not on this dtype or width.
    """
    device = target_device(rules)
    kind = choose(kind, device, query.dtype, min(query.shape[1], key.shape[1]), query.shape[-1], rules)
    if kind == "einsum":
        return _einsum(query, key, value)
    if kind == "blocked":
        return shard_map_local(blocked_attention.attend, rules, HEADS, query, key, value)
    if kind == "xla":
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")
    if kind == "cudnn":
        reason = why_not_cudnn(device, query.dtype, query.shape[-1])
        if reason:
            raise ValueError(f"attention='cudnn': {reason}; take attention='xla' or 'auto'")
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    if device.platform not in ("tpu", "cpu"):
        raise ValueError(f"attention='splash' is a TPU's kernel, this is {device.platform}; take attention='cudnn' or 'auto'")
    return _splash(query, key, value, rules, interpret=device.platform == "cpu")


def weights(query, key):
    """The softmax weights, float32 [B, heads, Nq, Nk], of query and key [B, N, heads, width]."""
    return jax.nn.softmax(_logits(query, key), axis=-1)


def _logits(query, key):
    return jnp.einsum("bqhd,bkhd->bhqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)


def _einsum(query, key, value):
    """Divides by the weights' sum last, where there are fewer numbers: 0.8 of the time of a softmax before the product on CPU."""
    logits = _logits(query, key)
    raw = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", raw.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / rearrange(raw.sum(-1), "b h q -> b q h 1")).astype(value.dtype)


def block_size(tokens: int) -> int:
    """Tokens of a tile: whole TILEs, at most LARGEST_BLOCK, such that least is added to the tokens; of two that add the same, the larger."""
    blocks = range(TILE, LARGEST_BLOCK + 1, TILE)
    few = [block for block in blocks if block >= min(tokens, LARGEST_BLOCK // 2)]
    return min(few or blocks, key=lambda block: (-(-tokens // block) * block, -block))


def _splash(query, key, value, rules: Rules | None, interpret: bool):
    """Each device runs the kernel on its clips and heads: XLA cannot take a Pallas kernel apart by itself."""
    block = block_size(key.shape[1])
    kernel = functools.partial(_splash_here, queries=query.shape[1], keys=key.shape[1], block=block, interpret=interpret)
    padded = (_padded(array, block) for array in (query * query.shape[-1] ** -0.5, key, value))
    return shard_map_local(kernel, rules, HEADS, *padded)[:, : query.shape[1]]


def _padded(tokens, block: int):
    """[B, N, heads, width] with zeros up to whole blocks."""
    missing = -tokens.shape[1] % block
    return jnp.pad(tokens, ((0, 0), (0, missing), (0, 0), (0, 0)))


def _splash_here(query, key, value, queries: int, keys: int, block: int, interpret: bool):
    """Attention of [B, N, heads, width] to the first `keys` keys."""
    real = np.arange(key.shape[1])[None] < keys
    mask = splash_mask.NumpyMask(np.broadcast_to(real, (query.shape[1], key.shape[1])).copy())
    attention = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * query.shape[2]),
        block_sizes=_block_sizes(block),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    by_head = (rearrange(array, "b n h d -> b h n d") for array in (query, key, value))
    return rearrange(jax.vmap(attention)(*by_head), "b h n d -> b n h d")


def _block_sizes(block: int):
    """The same tiles forwards and backwards."""
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return splash_kernel.BlockSizes(**{f"block_{name}": block for name in names})
