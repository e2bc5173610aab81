"""A stack of blocks gives the same numbers as a loop and unrolled, with and without rematerialization; only its cost changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models.patches import Grid
from cvmae.models.vit import REMATS, Encoder, TransformerConfig, ViTSize
from cvmae.performance.flops import FlopCount

GRID = Grid(2, 16, 16, 2, 8)
PLAIN = TransformerConfig(ViTSize(16, 3, 2), drop_path=0.5)
CLIPS = np.random.default_rng(0).normal(size=(4, 2, 16, 16, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 4)
WAYS = [
    ("full", False),
    ("none", True),
    pytest.param("dots", True, marks=pytest.mark.slow),
    pytest.param("kernels", False, marks=pytest.mark.slow),
    ("kernels", True),
]


def encoder(trunk: TransformerConfig) -> Encoder:
    return Encoder(trunk, GRID, "sincos1d", cls_token=True)


@pytest.fixture(scope="module")
def params():
    return jax.jit(encoder(PLAIN).init)(jax.random.key(0), CLIPS)["params"]


@pytest.fixture(scope="module")
def plain_numbers(params):
    return numbers(PLAIN, params)


def numbers(trunk: TransformerConfig, params):
    """Tokens, the state after each block, and the gradient of a loss with blocks dropped."""

    def loss(params):
        out, kept = encoder(trunk).apply({"params": params}, CLIPS, drop_keys=KEYS, mutable=["intermediates"])
        return jnp.square(out.tokens - 1).mean(), (out.tokens, kept["intermediates"]["blocks"]["hidden"])

    (_, aux), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return aux, gradients


@pytest.mark.parametrize("attention", ["lanes", "splash", "blocked"])
def test_kernels_are_kept_under_their_names(attention, params):
    """Gradients are those without rematerialization; a Pallas kernel's forward pass runs once, others' output is kept."""
    plain = dataclasses.replace(PLAIN, size=ViTSize(16, 1, 2), attention=attention)
    kept = dataclasses.replace(plain, remat="kernels")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), numbers(kept, params), numbers(plain, params)
    )

    def kernel_flops(trunk):
        return FlopCount(
            jax.make_jaxpr(jax.grad(lambda p: encoder(trunk).apply({"params": p}, CLIPS).tokens.sum()))(params)
        ).kernels

    full = kernel_flops(dataclasses.replace(plain, remat="full"))
    assert kernel_flops(kept) == kernel_flops(plain) and (full > kernel_flops(plain) or attention == "blocked")


@pytest.mark.parametrize(("remat", "scan"), WAYS)
def test_the_same_numbers_and_parameters(remat, scan, params, plain_numbers):
    trunk = dataclasses.replace(PLAIN, remat=remat, scan=scan)
    made = jax.jit(encoder(trunk).init)(jax.random.key(0), CLIPS)["params"]
    jax.tree.map(np.testing.assert_array_equal, made, params)
    results = numbers(trunk, params)
    assert len(results[0][1]) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), results, plain_numbers)


def program(depth: int, scan: bool) -> str:
    trunk = TransformerConfig(ViTSize(16, depth, 2), scan=scan)
    params = jax.eval_shape(encoder(trunk).init, jax.random.key(0), CLIPS)["params"]
    return jax.jit(encoder(trunk).apply).lower({"params": params}, CLIPS).as_text()


def products(text: str) -> int:
    return text.count("stablehlo.dot_general")


def test_a_loop_does_not_grow_with_depth():
    assert products(program(12, True)) == products(program(3, True)) == 1 + 8  # the embedding, and one block
    assert products(program(12, False)) == 1 + 12 * 8


@pytest.mark.slow
def test_what_is_computed_again_is_not_kept():
    """Eight blocks over 64 tokens a clip: each policy keeps less than the one before it."""
    grid, sizes = Grid(2, 64, 64, 2, 8), {}
    clips = jax.ShapeDtypeStruct((8, 2, 64, 64, 3), jnp.float32)
    for remat in REMATS:
        net = Encoder(TransformerConfig(ViTSize(32, 8, 2), remat=remat, scan=True), grid, "sincos1d")
        shapes = jax.eval_shape(net.init, jax.random.key(0), clips)["params"]
        gradient = jax.jit(jax.grad(lambda p, x, net=net: jnp.square(net.apply({"params": p}, x).tokens).mean()))
        sizes[remat] = gradient.lower(shapes, clips).compile().memory_analysis().temp_size_in_bytes
    assert sizes["none"] > sizes["all_dots"] > sizes["dots"] > sizes["kernels"] > sizes["full"], sizes
