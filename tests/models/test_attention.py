"""Every kernel of attention that runs here gives the textbook's numbers, and `auto` takes one that runs."""

import contextvars
import re
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import attention, blocked_attention
from cvmae.models.attention import ATTENTIONS, attend, block_size, choose
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.parallel.mesh import local_mesh, make_rules

HERE = jax.devices()[0].platform
RUNNING = {
    "cpu": ("auto", "einsum", "blocked", "xla", "lanes", "splash"),
    "gpu": ("auto", "einsum", "blocked", "xla", "cudnn"),
    "tpu": ("auto", "einsum", "blocked", "xla", "lanes", "splash"),
}[HERE]
A100 = types.SimpleNamespace(platform="gpu", device_kind="A100", compute_capability="8.0")
V100 = types.SimpleNamespace(platform="gpu", device_kind="V100", compute_capability="7.0")
TPU = types.SimpleNamespace(platform="tpu", device_kind="TPU v5e")
CPU = types.SimpleNamespace(platform="cpu", device_kind="cpu")
RULES = make_rules(local_mesh(), {"batch": "data+fsdp", "heads": "model"})


def heads(dtype, tokens: int = 7, width: int = 8):
    draw = np.random.default_rng(0)
    return [draw.normal(size=(2, tokens, 3, width)).astype(dtype) for _ in range(3)]


kernel = jax.jit(attend, static_argnums=3)


def textbook(q, k, v):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    exact = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    return weights, np.einsum("bhqk,bkhd->bqhd", weights, v)


@pytest.mark.device
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("kind", RUNNING)
def test_kernels_agree(kind, dtype, tolerance):
    if kind == "cudnn" and dtype == jnp.float32:
        pytest.skip("cuDNN's attention has no float32")
    arrays = heads(dtype)
    out = kernel(*arrays, kind)
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), textbook(*arrays)[1], atol=tolerance)


@pytest.mark.parametrize("queries, keys", [(7, 7), (8, 8), (7, 8), (8, 7)])
def test_a_token_added_for_cudnn_changes_nothing(queries, keys):
    """By XLA's kernel, which takes the same arguments: cuDNN's would refuse the gradient with 7 tokens."""
    query, (_, key, value) = heads(jnp.float32, queries)[0], heads(jnp.float32, keys)
    assert jax.eval_shape(lambda *arrays: attention._even(*arrays, "xla"), query, key, value).shape == query.shape

    def gradients(attend):
        return jax.jit(jax.grad(lambda *arrays: (attend(*arrays) ** 2).sum(), (0, 1, 2)))(query, key, value)

    even = gradients(lambda *arrays: attention._even(*arrays, "xla"))
    for ours, expected in zip(even, gradients(lambda *arrays: attend(*arrays, "einsum"))):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_weights_are_those_of_the_textbook():
    q, k, v = heads(jnp.float32)
    np.testing.assert_allclose(jax.jit(attention.weights)(q, k), textbook(q, k, v)[0], atol=1e-6)


@pytest.mark.device
def test_softmax_does_not_overflow_in_bfloat16():
    q = k = np.full((1, 4, 1, 8), 60, jnp.bfloat16)
    for kind in RUNNING:
        assert np.isfinite(np.asarray(kernel(q, k, np.ones_like(q), kind), np.float32)).all()


@pytest.mark.device
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("kind", [kind for kind in RUNNING if kind not in ("auto", "xla")])
def test_gradients_over_several_blocks(kind, dtype, tolerance, monkeypatch):
    """Against JAX's softmax; tokens that do not fill the last of several blocks."""
    if kind == "cudnn" and dtype == jnp.float32:
        pytest.skip("cuDNN's attention has no float32")
    monkeypatch.setattr(attention, "LARGEST_BLOCK", 128)
    monkeypatch.setattr(blocked_attention, "BLOCK", 64)
    assert block_size(150) == 128
    arrays, direction = heads(dtype, tokens=150), heads(jnp.float32, 150)[2]

    def gradients(kind, *arrays):
        return jax.jit(jax.grad(lambda *a: (attend(*a, kind) * direction).sum(), (0, 1, 2)))(*arrays)

    for gradient, exact in zip(gradients(kind, *arrays), gradients("xla", *(a.astype(np.float32) for a in arrays))):
        assert gradient.dtype == dtype
        rounding = tolerance if HERE == "cpu" or dtype == jnp.bfloat16 else 10 * tolerance  # other devices sum in other orders
        np.testing.assert_allclose(np.asarray(gradient, np.float32), exact, atol=rounding * float(np.abs(exact).max()))


@pytest.mark.device
@pytest.mark.parametrize("tokens", [160, 785, 1569])
def test_gradients_of_even_and_odd_numbers_of_tokens(tokens):
    """The kernel that a training step in bfloat16 takes, by cuDNN on GPUs, against JAX's softmax in float32."""
    kernel = "cudnn" if HERE == "gpu" else "blocked"
    arrays, direction = heads(jnp.bfloat16, tokens, 32), heads(jnp.float32, tokens, 32)[2]

    def gradients(kind, *arrays):
        return jax.jit(jax.grad(lambda *a: (attend(*a, kind) * direction).sum(), (0, 1, 2)))(*arrays)

    for gradient, exact in zip(gradients(kernel, *arrays), gradients("xla", *(a.astype(np.float32) for a in arrays))):
        np.testing.assert_allclose(np.asarray(gradient, np.float32), exact, atol=2e-2 * float(np.abs(exact).max()))


def test_blocks_hold_no_weights(optimized):
    """The weights of 1,200 tokens would be 46 MB."""
    a = jax.ShapeDtypeStruct((2, 1200, 4, 8), jnp.float32)

    def memory(kind):
        step = jax.jit(jax.grad(lambda *a: attend(*a, kind).sum(), (0, 1, 2)))
        return step.lower(a, a, a).compile().memory_analysis().temp_size_in_bytes

    assert memory("blocked") < 0.2 * memory("einsum") and memory("einsum") > 4 * 2 * 4 * 1200**2


@pytest.mark.parametrize("tokens, block", [(5, 128), (128, 128), (158, 256), (400, 512), (785, 512), (1569, 640), (3137, 640)])
def test_tiles_add_little(tokens, block):
    assert block_size(tokens) == block and -tokens % block < max(128, 0.31 * tokens)


@pytest.mark.parametrize(
    "device, dtype, tokens, width, kernel",
    [
        (CPU, jnp.float32, 158, 64, "einsum"),
        (CPU, jnp.float32, 1569, 32, "blocked"),
        (TPU, jnp.bfloat16, 1569, 32, "lanes"),
        (TPU, jnp.bfloat16, 1569, 36, "splash"),
        (TPU, jnp.float32, 158, 64, "xla"),
        (A100, jnp.bfloat16, 1569, 32, "cudnn"),
        (A100, jnp.float32, 1569, 32, "xla"),
        (A100, jnp.bfloat16, 1569, 36, "xla"),
        (A100, jnp.bfloat16, 1569, 256, "xla"),
        (V100, jnp.float16, 1569, 32, "xla"),
    ],
)
def test_auto_takes_what_runs(device, dtype, tokens, width, kernel):
    assert choose("auto", device, dtype, tokens, 16, width, RULES) == kernel
    assert all(choose(kind, device, dtype, tokens, 16, width, RULES) == kind for kind in ATTENTIONS if kind != "auto")


def test_auto_takes_no_pallas_kernel_without_rules():
    """XLA cannot partition one, and arrays without rules may be sharded."""
    assert choose("auto", TPU, jnp.bfloat16, 1569, 16, 32, None) == "xla"
    assert choose("lanes", TPU, jnp.bfloat16, 1569, 16, 32, None) == "lanes"


@pytest.mark.parametrize("kind", ["auto", "blocked", "lanes", "splash", "xla"])
@pytest.mark.parametrize("rules", [None, RULES], ids=["no rules", "rules"])
def test_a_module_is_one_program_everywhere(kind, rules):
    """A module in an empty context, in another thread and within another program is the program that it is by itself."""
    trunk = TransformerConfig(ViTSize(16, 1, 2), attention=kind, rules=rules)
    encoder, clip = Encoder(trunk, Grid(2, 16, 2048, 2, 8), "sincos1d"), jax.ShapeDtypeStruct((2, 2, 16, 2048, 3), jnp.float32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), clip)
    programs = []

    def program() -> str:
        text = str(jax.make_jaxpr(lambda params, clip: encoder.apply(params, clip).tokens)(params, clip))
        programs.append(re.sub("0x[0-9a-f]+", "", text))
        return programs[-1]

    contextvars.Context().run(program)
    thread = threading.Thread(target=program)
    thread.start()
    thread.join()
    jax.eval_shape(lambda x: (program(), x)[1], clip)
    assert programs == [program()] * 4
    assert ("shard_map" in program()) == (rules is not None and kind != "xla")


@pytest.mark.parametrize("kind, name", [("cudnn", "cudnn"), ("xla", "xla")])
def test_the_kernel_is_the_one_asked_for(kind, name, monkeypatch):
    """cuDNN's kernel runs on no CPU: this checks how it is called."""
    asked = []
    monkeypatch.setattr(attention, "target_device", lambda rules: A100)

    def record(query, key, value, implementation, key_value_seq_lengths=None):
        asked.append(implementation)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    assert jax.eval_shape(lambda *arrays: attend(*arrays, kind), *heads(jnp.bfloat16)).shape == (2, 7, 3, 8)
    assert asked == [name]


@pytest.mark.parametrize(
    "kind, device, dtype, width, message",
    [
        ("cudnn", CPU, jnp.bfloat16, 8, r"capability 8.0 or above, this is cpu \(cpu\); take attention='xla' or 'auto'"),
        ("cudnn", V100, jnp.bfloat16, 8, r"capability 8.0 or above, this is V100 \(7.0\)"),
        ("cudnn", A100, jnp.float32, 8, "computes in bfloat16 or float16, this is float32"),
        ("cudnn", A100, jnp.bfloat16, 12, "heads of 8, 16, ... 128 numbers, these have 12"),
        ("splash", A100, jnp.bfloat16, 8, "a TPU's kernel, this is gpu; take attention='cudnn' or 'auto'"),
    ],
)
def test_a_kernel_that_cannot_run_says_why(kind, device, dtype, width, message, monkeypatch):
    monkeypatch.setattr(attention, "target_device", lambda rules: device)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *arrays: attend(*arrays, kind), *heads(dtype, width=width))
