"""Operations counted from shapes: against the formula of a ViT block, against XLA's own count, and through loops."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from cvmae.models.attention import attend, block_size
from cvmae.models.vit import Block, TransformerConfig, ViTSize
from cvmae.performance import hlo, hlo_cost
from cvmae.performance.flops import FlopCount

B, N, D, HEADS = 2, 24, 32, 4


def block():
    module, x = Block(TransformerConfig(ViTSize(D, 1, HEADS), attention="einsum")), jnp.zeros((B, N, D))
    return module, jax.eval_shape(module.init, jax.random.key(0), x), x


def count(function, *args) -> FlopCount:
    return FlopCount(jax.make_jaxpr(function)(*args))


def test_a_block_is_the_formula():
    """Per clip: queries, keys, values and output 8 N D^2, the two products of attention 4 N^2 D, the MLP 16 N D^2."""
    module, params, x = block()
    forward = B * (24 * N * D**2 + 4 * N**2 * D)
    assert count(module.apply, params, x).total == forward
    gradient = jax.grad(lambda params, x: module.apply(params, x).sum(), argnums=(0, 1))
    assert count(gradient, params, x).total == 3 * forward


@pytest.fixture(scope="module")
def stacks():
    """The gradient of six layers, unrolled and scanned."""
    weights, x = jnp.zeros((6, 128, 128)), jnp.zeros((64, 128))

    def layer(h, w):
        return jnp.tanh(h @ w), None

    def unrolled(weights):
        return functools.reduce(lambda h, w: layer(h, w)[0], weights, x).sum()

    def scanned(weights):
        return jax.lax.scan(layer, x, weights)[0].sum()

    programs = {}
    for name, function in (("unrolled", unrolled), ("scanned", scanned)):
        gradient = jax.grad(function)
        programs[name] = (count(gradient, weights).total, jax.jit(gradient).lower(weights).compile())
    return programs


def in_text(compiled) -> int:
    program = hlo.parse(compiled.as_text())
    assert None not in program.loops.values()
    return sum(op.flops * op.times for op in hlo_cost.ops(program))


def xlas(compiled) -> float:
    return compiled.cost_analysis()["flops"]


def test_counts_agree_with_xlas_on_an_unrolled_model(stacks):
    traced, compiled = stacks["unrolled"]
    assert traced == in_text(compiled) == 17 * 2 * 64 * 128**2  # the first layer's input needs no gradient
    assert traced == pytest.approx(xlas(compiled), rel=0.05)  # XLA counts elementwise work too


def test_a_scan_counts_its_body_per_iteration_and_xla_does_not(stacks):
    traced, compiled = stacks["scanned"]
    assert traced == in_text(compiled) == 18 * 2 * 64 * 128**2
    assert xlas(compiled) < traced / 4


def test_bytes_of_a_scan_are_near_those_of_the_unrolled_model(stacks):
    moved = {}
    for name, (_, compiled) in stacks.items():
        moved[name] = sum(op.bytes * op.times for op in hlo_cost.ops(hlo.parse(compiled.as_text())))
    assert moved["unrolled"] == pytest.approx(stacks["unrolled"][1].cost_analysis()["bytes accessed"], rel=0.5)
    assert 0.5 < moved["scanned"] / moved["unrolled"] < 2


@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_convolutions_agree_with_xlas_count(stride, dilation, groups):
    x, w = jnp.zeros((2, 16, 16, 8)), jnp.zeros((3, 3, 8 // groups, 4))

    def convolve(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, "VALID", rhs_dilation=(dilation,) * 2, dimension_numbers=dims, feature_group_count=groups)  # fmt: skip

    compiled = jax.jit(convolve).lower(x, w).compile()
    assert count(convolve, x, w).total == xlas(compiled)
    assert in_text(compiled) == xlas(compiled)


def test_windows_over_padding_and_holes():
    """Matrix products with batches become such convolutions on TPU: every output index meets one index of the kernel."""
    text = """HloModule m

ENTRY %e (a: bf16[4,8,16], b: bf16[4,32,16]) -> bf16[4,8,32] {
  %a = bf16[4,8,16]{2,1,0} parameter(0)
  %b = bf16[4,32,16]{2,1,0} parameter(1)
  ROOT %c = bf16[4,8,32]{2,1,0} convolution(%a, %b), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}
"""
    assert in_text_of(text) == 2 * 4 * 8 * 16 * 32


def in_text_of(text: str) -> int:
    return sum(op.flops * op.times for op in hlo_cost.ops(hlo.parse(text)))


def test_recomputation_is_counted():
    module, params, x = block()

    def loss(params, apply):
        return apply(params, x).sum()

    plain = count(jax.grad(lambda p: loss(p, module.apply)), params).total
    again = count(jax.grad(lambda p: loss(p, jax.checkpoint(module.apply))), params).total
    last = B * 8 * N * D**2  # whose result the gradient does not need
    assert again - plain == count(module.apply, params, x).total - last


def test_the_largest_branch_and_all_mapped_devices_are_counted():
    a = jnp.zeros((4, 4))
    counted = count(lambda p: jax.lax.cond(p, lambda x: x @ x @ x, lambda x: x, a), True)
    assert counted.total == 2 * 2 * 4**3 and not counted.notes
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    assert count(mapped, jnp.zeros((8, 4))).total == 4 * 2 * 2 * 2 * 4


def test_kernels_are_counted_and_also_reported_by_themselves():
    """Splash: the two products of attention over whole tiles; of a loop's passes all."""
    x = jax.ShapeDtypeStruct((B, 100, HEADS, 8), jnp.float32)

    def loop(q):
        return jax.lax.scan(lambda q, _: (attend(q @ jnp.eye(8), q, q, "splash"), None), q, length=3)[0]

    counted, tile = count(loop, x), block_size(100)
    assert counted.kernels == 3 * B * HEADS * 2 * 2 * tile * tile * 8
    assert counted.total - counted.kernels == 3 * 2 * B * 100 * HEADS * 8 * 8
    assert counted.kernel_lanes == counted.kernels * 128 // 8  # heads of 8 numbers in 128 lanes
    assert count(lambda q: attend(q, q, q, "einsum"), x).kernels == 0


def test_notes_name_what_cannot_be_counted():
    a = jnp.zeros((4, 4))
    counted = count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x), a)
    assert counted.total == 2 * 4**3 and "unknown length" in " ".join(counted.notes)
    assert not count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x + 1, x), a).notes["loops"]
