"""The Pallas kernel `lanes`: interpreted, it is plain attention in value and gradient; and the TPU compiler takes it for every chip."""

import functools
import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from cvmae.models import attention, lanes_attention
from cvmae.models.attention import attend_projected, choose
from cvmae.models.lanes_attention import Layout, make_layout, vmem_of
from cvmae.models.vit import Attention, TransformerConfig, ViTSize
from cvmae.parallel.mesh import local_mesh, make_rules
from cvmae.performance import chips
from tests.requirements import missing

RULES = make_rules(local_mesh(), {"batch": "data+fsdp", "heads": "model"})
PLENTY = 128 * 2**20
V4 = types.SimpleNamespace(platform="tpu", device_kind="TPU v4")
V5E = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(lanes_attention, "QUERY_BLOCKS", (32,))
    monkeypatch.setattr(lanes_attention, "KEY_BLOCKS", (32,))


def tokens(queries: int, keys: int, heads: int, width: int, dtype=jnp.float32):
    """Queries, keys, values, and the gradient of the output."""
    draw = np.random.default_rng(0)
    return [draw.normal(size=(2, count, heads * width)).astype(dtype) for count in (queries, keys, keys, queries)]


def check(layout: Layout, queries: int, keys: int, dtype=jnp.float32, tolerance: float = 1e-5):
    """Compares the value and the three gradients with those of plain attention in float32."""
    arrays = tokens(queries, keys, layout.heads, layout.width, dtype)

    def interpreted(query, key, value):
        return lanes_attention.attend(query * layout.width**-0.5, key, value, layout, True)

    def plain(query, key, value):
        return attend_projected(query, key, value, layout.heads, "einsum")

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, *arrays, direction):
        out, pull = jax.vjp(function, *arrays)
        return out, *pull(direction)

    *inputs, direction = arrays
    results = value_and_gradients(interpreted, *inputs, direction=direction)
    *inputs, direction = (a.astype(np.float32) for a in arrays)
    for result, wanted in zip(results, value_and_gradients(plain, *inputs, direction=direction), strict=True):
        assert result.dtype == dtype
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(np.asarray(result, np.float32), wanted, atol=tolerance * scale)


@pytest.mark.parametrize(
    "heads, width, lanes",
    [
        (4, 32, 128),
        (16, 8, 128),
        pytest.param(16, 16, 128, marks=pytest.mark.slow),
        (3, 64, 192),
        pytest.param(4, 128, 128, marks=pytest.mark.slow),
        (2, 8, 16),
        (8, 80, 640),
        (1, 256, 256),
        pytest.param(3, 80, 240, marks=pytest.mark.slow),
    ],
)
def test_ragged_blocks_of_queries(heads, width, lanes):
    """75 tokens over blocks of 32; heads that share registers, straddle them, and have them for themselves."""
    layout = make_layout(heads, width, 75, 75, 4, PLENTY)
    assert (layout.queries, layout.keys, layout.lanes) == (32, 75, lanes)
    check(layout, 75, 75)


@pytest.mark.parametrize("queries, keys", [(75, 75), (64, 75), (75, 64), (20, 96)])
@pytest.mark.parametrize("heads, width", [(4, 32), (1, 128)])
def test_a_running_maximum_where_the_keys_do_not_fit(heads, width, queries, keys):
    layout = make_layout(heads, width, queries, keys, 4, 520_000)
    assert layout.keys == 32 and layout.queries == min(32, queries)
    check(layout, queries, keys)


def test_full_blocks():
    check(make_layout(4, 32, 64, 64, 4, PLENTY), 64, 64)


@pytest.mark.parametrize("vmem", [PLENTY, 420_000])
def test_bfloat16(vmem):
    layout = make_layout(4, 32, 75, 75, 2, vmem)
    assert layout.keys == (75 if vmem == PLENTY else 32)
    check(layout, 75, 75, jnp.bfloat16, 2e-2)


def test_large_logits_do_not_overflow():
    layout = make_layout(2, 16, 75, 75, 2, PLENTY)
    query = np.full((1, 75, 32), 60, jnp.bfloat16)

    @jax.jit
    def value_and_gradient(query):
        out, pull = jax.vjp(lambda q: lanes_attention.attend(q, query, jnp.ones_like(query), layout, True), query)
        return out, pull(out)[0]

    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in value_and_gradient(query))


def test_the_keys_of_a_clip_stay_on_the_chip_where_they_fit(monkeypatch):
    """16 and 64 frames of the decoder: whole on a v5e, in blocks for 64 frames on a v4."""
    monkeypatch.undo()
    layouts = {(kind.device_kind, n): make_layout(16, 32, n, n, 2, vmem_of(kind)) for kind in (V4, V5E) for n in (1569, 6272)}
    assert [layout.keys for layout in layouts.values()] == [1569, 1024, 1569, 6272]
    for (_, n), layout in layouts.items():
        assert lanes_attention._vmem_needed(layout, n, n, 2) < layout.vmem
    assert make_layout(16, 32, 10**6, 10**6, 2, vmem_of(V5E)) is None  # the queries' gradient does not fit


@pytest.mark.parametrize("heads, width", [(3, 12), (100, 24)])
def test_auto_takes_what_it_took_before_where_the_lanes_do_not_fit(heads, width):
    assert choose("auto", V5E, jnp.bfloat16, 1569, heads, width, RULES) == "splash"
    with pytest.raises(
        ValueError, match=f"attention='lanes': it cannot take {heads} heads of {width} .* take attention='auto' or 'splash'"
    ):
        jax.eval_shape(lambda *arrays: attend_projected(*arrays, heads, "lanes"), *tokens(8, 8, heads, width)[:3])


def test_a_module_does_not_move_its_heads():
    """The projections go into the kernel as they are: no array of the program has an axis of heads."""
    module = Attention(TransformerConfig(ViTSize(32, 1, 4), attention="lanes", rules=RULES))
    x = jax.ShapeDtypeStruct((2, 24, 32), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    text = str(jax.make_jaxpr(lambda params, x: module.apply(params, x))(params, x))
    assert "pallas_call" in text and "[2,24,4,8]" not in text and " transpose[" not in text


def test_other_platforms_are_refused(monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", device_kind="A100")
    monkeypatch.setattr(attention, "target_device", lambda rules: gpu)
    with pytest.raises(ValueError, match="attention='lanes' is a TPU's kernel, this is gpu"):
        jax.eval_shape(lambda *arrays: attend_projected(*arrays, 2, "lanes"), *tokens(8, 8, 2, 8)[:3])


@pytest.mark.parametrize("cut", [False, True], ids=["whole keys", "blocks of keys"])
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_tpu_compiler_takes_it(topology, cut, monkeypatch):
    """Compiled, not run: heads of 32 over 200 tokens, forward and backward."""
    if importlib.util.find_spec("libtpu") is None:
        missing("plan", "libtpu comes with the extra: pip install '.[plan]'")
    monkeypatch.setattr(lanes_attention, "QUERY_BLOCKS", (128,))
    device = chips.devices_of(chips.parse_topology(topology))[0]
    assert device.device_kind in lanes_attention.VMEM
    layout = Layout(8, 32, 128, 128, 128 if cut else 200, vmem_of(device))
    shape = jax.ShapeDtypeStruct((2, 200, 256), jnp.bfloat16, sharding=SingleDeviceSharding(device))

    def step(query, key, value, gradient):
        out, pull = jax.vjp(lambda *arrays: lanes_attention.attend(*arrays, layout, False), query, key, value)
        return out, pull(gradient)

    text = jax.jit(step).trace(*[shape] * 4).lower().compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
