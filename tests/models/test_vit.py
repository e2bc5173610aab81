"""The table of sizes, the kinds of attention, and an encoder that sees visible tokens only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.patches import Grid, patchify, unpatchify
from cvmae.models.positions import KINDS
from cvmae.models.vit import VIT_SIZES, Block, Encoder, TransformerConfig, ViTSize, decode_variant

GRID = Grid(4, 32, 32, 2, 8)
IMAGE = Grid(1, 32, 32, 1, 8)


def shapes(encoder: Encoder):
    grid = encoder.grid
    clip = jax.ShapeDtypeStruct((1, grid.num_frames, grid.height, grid.width, 3), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), clip)["params"]


def clip_and_mask(grid: Grid, batch: int = 2, ratio: float = 0.5):
    clip = np.random.default_rng(1).normal(size=(batch, grid.num_frames, grid.height, grid.width, 3)).astype(np.float32)
    draw = jax.jit(lambda key: masking.draw(jax.random.split(key, batch), grid, "random", ratio))
    return clip, draw(jax.random.key(2))


def visible_rows(tokens, mask):
    return np.take_along_axis(np.asarray(tokens), np.asarray(mask.ids_keep)[..., None], axis=1)


@pytest.mark.parametrize("variant, width, patch", [("B/16", 768, 16), ("H/14", 1280, 14), ("Ti/8", 192, 8), ("test/4", 32, 4)])
def test_decode_variant(variant, width, patch):
    size, side = decode_variant(variant)
    assert (size.width, side) == (width, patch)


@pytest.mark.parametrize("variant", ["B", "B/", "/16", "X/16", "B/0", "B/-16", "B/16x", "b/16", ""])
def test_decode_variant_refuses(variant):
    with pytest.raises(ValueError, match="expected SIZE/PATCH such as 'B/16', with SIZE one of test, mini, Ti, S, B, L, H"):
        decode_variant(variant)


# Known sizes of ViT encoders in millions, over 2 x 16 x 16 tubelets, without positions, cls and head.
MILLIONS = {"Ti": 5.6, "S": 21.9, "B": 86.2, "L": 303.9, "H": 631.7}


DEEP = [name for name, size in VIT_SIZES.items() if size.depth > 24 and name not in MILLIONS]  # which take long to trace


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in VIT_SIZES])
def test_parameter_counts(name):
    size = VIT_SIZES[name]
    encoder = Encoder(TransformerConfig(size), Grid(16, 224, 224, 2, 16), "sincos1d")
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(encoder)))
    d, hidden = size.width, int(size.width * size.mlp_ratio)
    block = 4 * (d * d + d) + (d * hidden + hidden) + (hidden * d + d) + 4 * d
    assert count == size.depth * block + (1536 * d + d) + 2 * d
    if name in MILLIONS:
        assert count / 1e6 == pytest.approx(MILLIONS[name], abs=0.06)


@pytest.mark.parametrize("bias, names", [("qkv", {"query", "key", "value"}), ("qv", {"query", "value"}), ("none", set())])
def test_qkv_biases(bias, names):
    attention = shapes(Encoder(TransformerConfig(VIT_SIZES["test"], bias), GRID, "sincos1d"))["blocks"]["block0"]["attention"]
    assert {n for n in ("query", "key", "value") if "bias" in attention[n]} == names
    assert "bias" in attention["out"]


def test_refusals():
    with pytest.raises(ValueError, match="width=10 is not a multiple of heads=3"):
        ViTSize(10, 1, 3)
    with pytest.raises(ValueError, match="qkv_bias is 'kv'; expected one of qkv, qv, none"):
        TransformerConfig(VIT_SIZES["test"], "kv")
    with pytest.raises(
        ValueError, match="attention is 'flash'; expected one of auto, einsum, blocked, xla, cudnn, lanes, splash"
    ):
        TransformerConfig(VIT_SIZES["test"], attention="flash")


@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize("positions", KINDS)
def test_embedding_visible_tokens_is_embedding_all_and_dropping(positions, cls_token):
    """Without blocks, where tokens do not interact: positions added after masking equal positions added before it."""
    grid = IMAGE if positions == "sincos2d" else GRID
    encoder = Encoder(TransformerConfig(ViTSize(16, 0, 2)), grid, positions, cls_token, final_norm=False)
    clip, mask = clip_and_mask(grid)

    @jax.jit
    def run(key):
        params = encoder.init(key, clip)
        return encoder.apply(params, clip), encoder.apply(params, clip, mask)

    everything, visible = run(jax.random.key(0))
    np.testing.assert_allclose(visible.tokens, visible_rows(everything.tokens, mask), atol=1e-5)
    assert (visible.cls is not None) == cls_token
    if cls_token:
        np.testing.assert_array_equal(visible.cls, everything.cls)


def test_hidden_tokens_are_out_of_sight():
    """With blocks the result differs from seeing all, and does not change with masked pixels."""
    encoder = Encoder(TransformerConfig(ViTSize(16, 1, 2)), GRID, "sincos1d", cls_token=True)
    clip, mask = clip_and_mask(GRID)
    params = jax.jit(encoder.init)(jax.random.key(0), clip)
    encode = jax.jit(encoder.apply)
    visible = encode(params, clip, mask)
    assert np.abs(visible.tokens - visible_rows(encode(params, clip).tokens, mask)).max() > 1e-2

    @jax.jit
    def with_other_hidden_pixels(clip):
        patches = patchify(clip, GRID.tubelet, GRID.patch)
        return unpatchify(jnp.where(mask.hidden[..., None], 7.0, patches), GRID)

    other = with_other_hidden_pixels(clip)
    changed = encode(params, other, mask)
    np.testing.assert_array_equal(visible.tokens, changed.tokens)
    np.testing.assert_array_equal(visible.cls, changed.cls)


def test_hidden_states_are_sown_for_every_block():
    encoder = Encoder(TransformerConfig(ViTSize(16, 3, 2)), GRID, "sincos1d", final_norm=False)
    clip, mask = clip_and_mask(GRID)

    @jax.jit
    def run(key):
        params = encoder.init(key, clip, mask)
        return encoder.apply({"params": params["params"]}, clip, mask, mutable=["intermediates"])

    encoded, state = run(jax.random.key(0))
    hidden = state["intermediates"]["blocks"]["hidden"]
    assert len(hidden) == 3
    np.testing.assert_array_equal(hidden[-1], encoded.tokens)


def test_the_tanh_gelu_is_near_the_exact_one():
    x = np.linspace(-3, 3, 2 * 5 * 32, dtype=np.float32).reshape(2, 5, 32)
    exact, tanh = (Block(TransformerConfig(VIT_SIZES["test"], mlp=mlp)) for mlp in ("gelu", "gelu_tanh"))

    @jax.jit
    def run(key, x):
        params = exact.init(key, x)
        return exact.apply(params, x), tanh.apply(params, x)

    difference = np.abs(np.subtract(*run(jax.random.key(0), x))).max()
    assert 0 < difference < 2e-3
    with pytest.raises(ValueError, match="mlp is 'relu'; expected one of gelu, gelu_tanh"):
        TransformerConfig(VIT_SIZES["test"], mlp="relu")
