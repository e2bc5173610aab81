"""Attention as it is drawn: the weights that the encoder uses, rolled out as published, at the right place and the right way up."""

import dataclasses

import jax
import numpy as np
import pytest

from cvmae.models.patches import Grid
from cvmae.models.vit import WEIGHTS, Encoder, TransformerConfig, ViTSize
from cvmae.visualize.attention import AttentionSpec, attention_map, attention_weights, map_of_query, rollout

GRID = Grid(4, 16, 24, 2, 8)  # 2 temporal positions of 2 rows and 3 columns
TRUNK = TransformerConfig(ViTSize(8, 2, 2))


@pytest.fixture(scope="module")
def world():
    """An encoder with a cls token and random parameters, and two clips."""
    encoder = Encoder(TRUNK, GRID, "separable", cls_token=True)
    draw = np.random.default_rng(0)
    clips = draw.normal(size=(2, 4, 16, 24, 3)).astype(np.float32)
    params = jax.jit(encoder.init)(jax.random.key(0), clips)["params"]
    return encoder, jax.tree.map(lambda a: a + draw.normal(size=a.shape, scale=0.3).astype(np.float32), params), clips


# Compiled as a whole: op by op, every operation of every shape would be a program of its own.
weights_of = jax.jit(attention_weights, static_argnums=0)
map_of = jax.jit(attention_map, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def world_weights(world):
    return weights_of(*world)


def test_weights_are_those_that_mix_the_values(world, world_weights):
    """A block's attention, made again from its weights and values, moves the stream as the block itself does."""
    encoder, params, clips = world
    _, kept = jax.jit(lambda p: encoder.apply({"params": p}, clips, mutable=["intermediates"]))(params)
    first, second = (np.asarray(a, np.float64) for a in kept["intermediates"]["blocks"]["hidden"])
    weights = np.asarray(world_weights[1], np.float64)
    assert weights.dtype == np.float64 and weights.shape == (2, 2, 13, 13)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["blocks"]["block1"])

    def norm(x, scale):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale["scale"] + scale["bias"]

    value = norm(first, p["norm1"]) @ p["attention"]["value"]["kernel"] + p["attention"]["value"]["bias"]
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value.reshape(2, 13, 2, 4)).reshape(2, 13, 8)
    x = first + mixed @ p["attention"]["out"]["kernel"] + p["attention"]["out"]["bias"]
    y = norm(x, p["norm2"]) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
    y = np.asarray(jax.nn.gelu(y.astype(np.float32), approximate=False), np.float64)
    np.testing.assert_allclose(x + y @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"], second, atol=2e-5)


@pytest.mark.parametrize("change", [{"scan": True}, {"remat": "full"}, {"attention": "xla"}])
def test_blocks_as_a_loop_recomputed_or_of_another_kernel_show_the_same(world, world_weights, change):
    encoder, params, clips = world
    other = encoder.clone(trunk=dataclasses.replace(TRUNK, **change))
    for found, expected in zip(weights_of(other, params, clips), world_weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_not_asked_for_is_not_computed(world):
    encoder, params, clips = world
    assert WEIGHTS not in jax.eval_shape(encoder.init, jax.random.key(0), clips)
    plain = jax.make_jaxpr(lambda p: encoder.apply({"params": p}, clips).tokens)(params)
    other = jax.make_jaxpr(lambda p: encoder.apply({"params": p}, clips, mutable=["intermediates"])[0].tokens)(params)
    assert str(plain) == str(other) and str(plain).count("reduce_max") == 2  # one softmax a block
    scanned = encoder.clone(trunk=dataclasses.replace(TRUNK, scan=True))
    assert "scan" in str(jax.make_jaxpr(lambda p: scanned.apply({"params": p}, clips).tokens)(params))


def watching(place: tuple[int, int, int], heads: int = 2):
    """An encoder whose every token attends to the one bright patch of a clip, and such a clip; made by hand.

    The embedding puts a patch's brightness on the first two features with opposite signs, the layer norm makes it ±1 whatever it
    is, the key takes it, and every query is the same: a bias.
    """
    width, encoder = 4 * heads, Encoder(TransformerConfig(ViTSize(4 * heads, 1, heads)), GRID, "learned", final_norm=False)
    clip = np.zeros((1, 4, 16, 24, 3), np.float32)
    time, row, column = place
    clip[:, 2 * time : 2 * time + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
    params = jax.tree.map(np.zeros_like, jax.jit(encoder.init)(jax.random.key(0), clip)["params"])
    params["embed"]["kernel"][:, 0], params["embed"]["kernel"][:, 1] = 1, -1
    block = params["blocks"]["block0"]
    block["norm1"]["scale"][:] = 1
    for head in range(heads):
        block["attention"]["key"]["kernel"][0, width // heads * head] = 1
        block["attention"]["query"]["bias"][width // heads * head] = 20
    return encoder, params, clip


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1)])
def test_known_attention_is_at_its_place_in_a_clip_that_is_not_square(place):
    encoder, params, clip = watching(place)
    for spec in (AttentionSpec(), AttentionSpec(query="patch", position=(0.9, 0.9, 0.1)), AttentionSpec(head=1)):
        found = np.asarray(map_of(encoder, params, clip, spec)[0])
        expected = np.zeros((2, 2, 3))
        expected[place] = 12  # of 12 tokens one has everything
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_row_of_the_query_is_read():
    matrix = np.random.default_rng(1).uniform(size=(1, 13, 13)).astype(np.float32)
    cases = {"cls": matrix[0, 0], "mean": matrix[0, 1:].mean(0), "patch": matrix[0, 1 + 6 + 3 + 2]}
    for query, row in cases.items():
        found = map_of_query(matrix, GRID, True, AttentionSpec(query=query, position=(1.0, 0.5, 0.7)))
        np.testing.assert_allclose(np.asarray(found).reshape(12), 13 * row[1:], rtol=1e-6)
    found = map_of_query(matrix[:, 1:, 1:], GRID, False, AttentionSpec(query="patch", position=(0.0, 0.0, 0.34)))
    np.testing.assert_allclose(np.asarray(found).reshape(12), 12 * matrix[0, 2, 1:], rtol=1e-6)


def published_rollout(layers):
    """Abnar and Zuidema (2020), equation 1: of A = 0.5 W + 0.5 I, with rows that sum to 1, layer l has A_l ... A_1."""
    found = None
    for weights in layers:
        mixed = 0.5 * np.asarray(weights, np.float64) + 0.5 * np.eye(len(weights))
        mixed /= mixed.sum(-1, keepdims=True)
        found = mixed if found is None else mixed @ found
    return found


def test_rollout_is_the_published_one(world, world_weights):
    draw = np.random.default_rng(2)
    layers = [w / w.sum(-1, keepdims=True) for w in draw.uniform(size=(3, 5, 5))]
    found = np.asarray(jax.jit(rollout)([w[None].astype(np.float32) for w in layers]))[0]
    np.testing.assert_allclose(found, published_rollout(layers), rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(rollout)([np.eye(4, dtype=np.float32)[None]] * 2)[0], np.eye(4))
    # And of a model: only blocks up to `layer` count, with heads averaged before.
    encoder, params, clips = world
    weights = [np.asarray(w).mean(1) for w in world_weights]
    for layer, used in ((0, weights[:1]), (-1, weights)):
        found = map_of(encoder, params, clips, AttentionSpec("rollout", layer, query="cls"))
        expected = np.stack([13 * published_rollout([w[b] for w in used])[0, 1:] for b in range(2)])
        np.testing.assert_allclose(np.asarray(found).reshape(2, 12), expected, rtol=1e-4)


def test_layers_and_heads_are_chosen(world, world_weights):
    encoder, params, clips = world
    weights = [np.asarray(w) for w in world_weights]
    for layer, head in ((0, -1), (1, 0), (-1, 1)):
        found = map_of(encoder, params, clips, AttentionSpec(layer=layer, head=head))
        matrix = weights[layer].mean(1) if head == -1 else weights[layer][:, head]
        np.testing.assert_allclose(np.asarray(found).reshape(2, 12), 13 * matrix[:, 1:, 1:].mean(1), rtol=1e-4)


@pytest.mark.parametrize(
    "spec, message",
    [
        (AttentionSpec("attentoin"), "map='attentoin' is unknown: take one of attention, rollout"),
        (AttentionSpec(query="dog"), "query='dog' is unknown"),
        (AttentionSpec(layer=2), "layer=2 does not exist: expected -1, or 0 to 1 of 2"),
        (AttentionSpec(head=2), "head=2 does not exist"),
        (AttentionSpec(query="cls"), "query='cls' needs an encoder with a cls token"),
    ],
)
def test_what_an_encoder_has_not_got_is_said(spec, message):
    with pytest.raises(ValueError, match=message):
        spec.check(Encoder(TRUNK, GRID, "separable"))


def test_captions_say_what_is_drawn():
    encoder = Encoder(TRUNK, GRID, "separable", cls_token=True)
    assert AttentionSpec().describe(encoder) == "attention of block 2 of 2, mean of 2 heads, mean over all queries"
    text = AttentionSpec("rollout", 0, 1, "patch", (1.0, 0.0, 0.5)).describe(encoder)
    assert text.startswith("attention rolled out to block 1 of 2, head 2 of 2, from the marked patch")
    assert text.endswith(" (temporal position 2, row 1, column 2)")
    assert "from the cls token" in AttentionSpec(query="cls").describe(encoder)
