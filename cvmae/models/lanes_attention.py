"""Attention for TPUs on arrays as the projections give them, [B, N, heads · width]: heads are lanes, nothing is transposed or padded.

A grid step takes a block of queries of one clip and a group of heads that fills whole registers of 128 lanes. A head narrower than a
register is cut out by zeros in its queries: the matrix unit contracts 128 lanes in the time of 32, and no lane has to move. Keys and
values of a clip stay on the chip whole where they fit; else they come in blocks, under a running maximum (FlashAttention, Dao et al.,
arXiv 2205.14135). The gradient is one kernel, which computes the weights again with keys along sublanes: so two of its three products
with weights need no transposition, and a query's sums are a row of lanes, which is 1/128 of the memory of a column.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

# Names of what the gradient needs of the forward pass, for checkpoint policies.
OUTPUT, SUMS = "attention_output", "attention_sums"
LANES = 128  # of a vector register
WIDEST_GROUP = 1024  # lanes of a grid step
QUERY_BLOCKS = (256, 128)  # multiples of LANES, the preferred first
KEY_BLOCKS = (1024, 512, 256)  # where keys do not stay on the chip whole
MIB = 2**20
# On-chip memory by `device_kind`, in MiB, of a TensorCore; of others the smallest (docs.jax.dev, Pallas: TPU hardware).
VMEM = {"TPU v4": 16, "TPU v5 lite": 128, "TPU v5": 64, "TPU v5p": 64, "TPU v6 lite": 128}
SMALLEST_VMEM = 16
USABLE = 0.75  # of it; the rest is the compiler's, for spills and its own copies
FAR = 1e30  # finite, as infinities minus infinities are not numbers

_NT = (((1,), (1,)), ((), ()))  # a bᵀ
_NN = (((1,), (0,)), ((), ()))  # a b
_TN = (((0,), (0,)), ((), ()))  # aᵀ b


@dataclasses.dataclass(frozen=True)
class Layout:
    """The cut of an attention into grid steps. Hashable, so that it is a static argument.

    Attributes:
      heads: number of heads on this device.
      width: of one head.
      lanes: of a group of heads: whole registers, or all lanes.
      queries: tokens of a block of queries.
      keys: tokens of a block of keys; all of them where they stay on the chip whole.
      vmem: bytes of on-chip memory that the kernels may take.
    """

    heads: int
    width: int
    lanes: int
    queries: int
    keys: int
    vmem: int

    @property
    def group(self) -> int:
        """Number of heads of a group."""
        return self.lanes // self.width

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.heads // self.group

    def window(self, head: int) -> slice:
        """The registers that hold a head of a group."""
        start, stop = head * self.width, (head + 1) * self.width
        return slice(start // LANES * LANES, min(self.lanes, -(-stop // LANES) * LANES))

    def lanes_of(self, head: int):
        """Bool [1, lanes of its window], True for the head's own lanes; None where it has the window for itself."""
        window = self.window(head)
        count, start = window.stop - window.start, head * self.width - window.start
        if count == self.width:
            return None
        lane = jax.lax.broadcasted_iota(jnp.int32, (1, count), 1)
        return (lane >= start) & (lane < start + self.width)


def vmem_of(device) -> int:
    """Bytes of on-chip memory of a device that the kernels plan with; other platforms, which interpret them, are as a v5e."""
    mib = VMEM.get(device.device_kind, SMALLEST_VMEM) if device.platform == "tpu" else VMEM["TPU v5 lite"]
    return mib * MIB


def make_layout(heads: int, width: int, queries: int, keys: int, itemsize: int, vmem: int) -> Layout | None:
    """Returns the cut of an attention into grid steps; None where the kernels cannot take it.

    Args:
      heads: number of heads on one device.
      width: of one head; a multiple of 8.
      queries, keys: numbers of tokens.
      itemsize: bytes of a number.
      vmem: bytes of on-chip memory, see `vmem_of`.
    """
    total = heads * width
    registers = math.lcm(width, LANES)
    lanes = registers if total % registers == 0 else total  # a block must have whole registers, or the whole axis
    if width % 8 or lanes > WIDEST_GROUP:
        return None
    wanted = [min(block, queries) for block in QUERY_BLOCKS]
    cuts = [(block, cut) for cut in (keys, *(cut for cut in KEY_BLOCKS if cut < keys)) for block in wanted]
    layouts = (Layout(heads, width, lanes, block, cut, vmem) for block, cut in cuts)
    return next((layout for layout in layouts if _vmem_needed(layout, queries, keys, itemsize) <= USABLE * vmem), None)


def _vmem_needed(layout: Layout, queries: int, keys: int, itemsize: int) -> int:
    """Bytes of the backward kernel, the larger one: blocks twice, as the next is fetched meanwhile, sums, and five [keys, queries]."""
    lanes = -(-layout.lanes // LANES) * LANES
    kept = layout.queries if layout.keys >= keys else -(-queries // layout.queries) * layout.queries
    blocks = 2 * itemsize * lanes * 4 * (layout.queries + layout.keys)
    return blocks + 4 * lanes * (2 * layout.keys + kept) + 5 * 4 * layout.queries * layout.keys


def _dot(a, b, dimensions, precision=None):
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _keep(mask, x):
    """Zeros where a mask is False; x itself without a mask. A product would keep the NaN that lies beyond an array's end."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))


def _rows_inside(block: int, index, total: int):
    """Bool [block, 1], True for the tokens of block `index` that exist; None where all blocks are full."""
    if total % block == 0:
        return None
    return index * block + jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0) < total


def _transpose(selector, x):
    """selector xᵀ in float32: the matrix unit turns columns into rows, for any number of tokens."""
    return _dot(selector, x, _NT, jax.lax.Precision.HIGHEST)


def _select_rows(shape, width: int):
    """Float32 [rows, lanes] with ones where a lane belongs to the row's head."""
    row, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return ((lane >= row * width) & (lane < (row + 1) * width)).astype(jnp.float32)


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, sums_ref, mixed_ref, top_ref, total_ref, *, layout: Layout, keys: int):
    """A block of queries against a block of keys; `mixed`, `top` and `total` are kept from one block of keys to the next."""
    index, cut = pl.program_id(3), layout.keys < keys
    inside = _rows_inside(layout.keys, index, keys)

    @pl.when((index == 0) & cut)
    def _():
        mixed_ref[...] = jnp.zeros_like(mixed_ref)
        top_ref[...] = jnp.full_like(top_ref, -FAR)
        total_ref[...] = jnp.zeros_like(total_ref)

    for head in range(layout.group):
        window, own = layout.window(head), layout.lanes_of(head)
        column = slice(head, head + 1)
        logits = _dot(_keep(own, q_ref[0, :, window]), _keep(inside, k_ref[0, :, window]), _NT)
        if inside is not None:
            token = index * layout.keys + jax.lax.broadcasted_iota(jnp.int32, (1, layout.keys), 1)
            logits = jnp.where(token < keys, logits, -FAR)
        top = logits.max(1, keepdims=True)
        if cut:
            top = jnp.maximum(top, top_ref[:, column])
        weights = jnp.exp(logits - top)
        total = weights.sum(1, keepdims=True)
        mixed = _dot(weights.astype(v_ref.dtype), _keep(inside, v_ref[0, :, window]), _NN)
        if cut:
            shrink = jnp.exp(top_ref[:, column] - top)
            total, mixed = total + shrink * total_ref[:, column], mixed + shrink * mixed_ref[:, window]
        mixed_ref[:, window] = mixed if own is None else jnp.where(own, mixed, mixed_ref[:, window])
        top_ref[:, column], total_ref[:, column] = top, total

    @pl.when(index == pl.num_programs(3) - 1)
    def _():
        for head in range(layout.group):
            window, own = layout.window(head), layout.lanes_of(head)
            mixed = mixed_ref[:, window]
            divided = mixed / total_ref[:, head : head + 1]
            mixed_ref[:, window] = divided if own is None else jnp.where(own, divided, mixed)
        out_ref[0] = mixed_ref[...].astype(out_ref.dtype)
        used = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) < layout.group
        sums = jnp.where(used, top_ref[...] + jnp.log(total_ref[...]), 0.0)
        sums_ref[0, 0] = _transpose(_select_rows((max(8, layout.group), LANES), 1), sums)[: layout.group]


def _backward_kernel(*refs, layout: Layout, queries: int, keys: int):
    """A block of keys against a block of queries, the inner loop; weights are [keys, queries]."""
    q_ref, k_ref, v_ref, out_ref, g_ref, sums_ref, dq_ref, dk_ref, dv_ref, dq_sum, dk_sum, dv_sum = refs
    j, i = pl.program_id(2), pl.program_id(3)
    # Keys that are cut need the sums of all queries at once.
    rows = pl.ds(i * layout.queries, layout.queries) if layout.keys < keys else slice(None)
    asked, inside = _rows_inside(layout.queries, i, queries), _rows_inside(layout.keys, j, keys)

    @pl.when(i == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    @pl.when(j == 0)
    def _():
        dq_sum[rows, :] = jnp.zeros((layout.queries, layout.lanes), jnp.float32)

    products = _keep(asked, out_ref[0].astype(jnp.float32) * g_ref[0].astype(jnp.float32))
    shares = _transpose(_select_rows((max(8, layout.group), layout.lanes), layout.width), products)
    sums = sums_ref[0, 0]
    if asked is not None:  # a weight of exp(-FAR) for queries that do not exist
        token = i * layout.queries + jax.lax.broadcasted_iota(jnp.int32, (1, layout.queries), 1)
        sums = jnp.where(token < queries, sums, FAR)
    for head in range(layout.group):
        window, own = layout.window(head), layout.lanes_of(head)
        q, g = (_keep(own, _keep(asked, ref[0, :, window])) for ref in (q_ref, g_ref))
        k, v = (_keep(inside, ref[0, :, window]) for ref in (k_ref, v_ref))
        weights = jnp.exp(_dot(k, q, _NT) - sums[head : head + 1])
        slopes = (weights * (_dot(v, g, _NT) - shares[head : head + 1])).astype(q.dtype)
        dv_sum[:, window] += _dot(weights.astype(g.dtype), g, _NN)
        dk_sum[:, window] += _dot(slopes, q, _NN)
        dq_sum[rows, window] += _keep(own, _dot(slopes, k, _TN))

    @pl.when(i == pl.num_programs(3) - 1)
    def _():
        dk_ref[0] = dk_sum[...].astype(dk_ref.dtype)
        dv_ref[0] = dv_sum[...].astype(dv_ref.dtype)

    @pl.when(j == pl.num_programs(2) - 1)
    def _():
        dq_ref[0] = dq_sum[rows, :].astype(dq_ref.dtype)


def _call(kernel, layout: Layout, name: str, interpret: bool, **arguments):
    parameters = pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=layout.vmem
    )
    return pl.pallas_call(kernel, name=name, compiler_params=parameters, interpret=interpret, **arguments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend(
    query: Float[Array, "B Nq D"], key: Float[Array, "B Nk D"], value: Float[Array, "B Nk D"], layout: Layout, interpret: bool
) -> Float[Array, "B Nq D"]:
    """Softmax attention of queries that are scaled already, by heads of consecutive lanes; the softmax is taken in float32.

    Args:
      query, key, value: of one dtype, which is that of the result; D is heads · width.
      layout: of `make_layout`.
      interpret: True runs the kernels without a TPU, slowly.
    """
    return _forward(query, key, value, layout, interpret)[0]


def _forward(query, key, value, layout: Layout, interpret: bool):
    batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    rows = pl.BlockSpec((1, layout.queries, layout.lanes), lambda b, h, i, j: (b, i, h))
    columns = pl.BlockSpec((1, layout.keys, layout.lanes), lambda b, h, i, j: (b, j, h))
    sums = pl.BlockSpec((1, 1, layout.group, layout.queries), lambda b, h, i, j: (b, h, 0, i))
    column = pltpu.VMEM((layout.queries, LANES), jnp.float32)
    out, total = _call(
        functools.partial(_forward_kernel, layout=layout, keys=keys),
        layout,
        "lanes_attention_forward",
        interpret,
        grid=(batch, layout.groups, pl.cdiv(queries, layout.queries), pl.cdiv(keys, layout.keys)),
        in_specs=[rows, columns, columns],
        out_specs=[rows, sums],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, layout.groups, layout.group, queries), jnp.float32),
        ],
        scratch_shapes=[pltpu.VMEM((layout.queries, layout.lanes), jnp.float32), column, column],
    )(query, key, value)
    out, total = checkpoint_name(out, OUTPUT), checkpoint_name(total, SUMS)
    return out, (query, key, value, out, total)


def _backward(layout: Layout, interpret: bool, residuals, gradient):
    query, key, value, out, total = residuals
    batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    query_blocks, key_blocks = pl.cdiv(queries, layout.queries), pl.cdiv(keys, layout.keys)
    rows = pl.BlockSpec((1, layout.queries, layout.lanes), lambda b, h, j, i: (b, i, h))
    columns = pl.BlockSpec((1, layout.keys, layout.lanes), lambda b, h, j, i: (b, j, h))
    sums = pl.BlockSpec((1, 1, layout.group, layout.queries), lambda b, h, j, i: (b, h, 0, i))
    # A block of the queries' gradient is written with the last block of keys; before that nothing leaves the chip.
    last = pl.BlockSpec(rows.block_shape, lambda b, h, j, i: (b, jnp.where(j == key_blocks - 1, i, 0), h))
    kept = layout.queries * (query_blocks if key_blocks > 1 else 1)
    return _call(
        functools.partial(_backward_kernel, layout=layout, queries=queries, keys=keys),
        layout,
        "lanes_attention_backward",
        interpret,
        grid=(batch, layout.groups, key_blocks, query_blocks),
        in_specs=[rows, columns, columns, rows, rows, sums],
        out_specs=[last, columns, columns],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (query, key, value)],
        scratch_shapes=[pltpu.VMEM((tokens, layout.lanes), jnp.float32) for tokens in (kept, layout.keys, layout.keys)],
    )(query, key, value, out, gradient, total)


attend.defvjp(_forward, _backward)
