"""Encoders of transformers without decoders, run forward and backward, and this package's encoders beside them."""

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.interop.convert import import_arrays
from cvmae.interop.keymap import KeyMap
from cvmae.interop.pretrained import differences
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.parity import torch


def random_like(shape, seed: int) -> np.ndarray:
    """Numbers of a normal distribution, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_run(model, pixels: np.ndarray, key_map: KeyMap, template, registers: int = 0, backward: bool = True, **options):
    """States after each block, the output [B, n, D] without register tokens, and the gradients as a tree of this package."""
    out = model(torch.from_numpy(np.ascontiguousarray(pixels)), output_hidden_states=True, **options)
    kept = [i for i in range(out.last_hidden_state.shape[1]) if not 0 < i <= registers]
    tokens = out.last_hidden_state[:, kept]
    if backward:
        (tokens * torch.from_numpy(random_like(tokens.shape, 5))).mean().backward()
    states = [state.detach().numpy() for state in out.hidden_states[1:]]
    return states, tokens.detach().numpy(), gradients(model, key_map, template) if backward else None


def gradients(model, key_map: KeyMap, template) -> dict:
    """The gradients of a model, as a tree of this package's parameters; parts that the loss does not reach have none."""
    arrays = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    converted = import_arrays(arrays, key_map)
    problems = converted.problems + differences(converted.tree, template)
    assert not problems, problems
    return converted.tree


def module_run(module, params, clips, backward: bool = True):
    """The same of an encoder."""

    def loss_of(params):
        encoded, state = module.apply({"params": params}, clips, mutable=["intermediates"])
        tokens = joined(encoded)
        return (tokens * random_like(tokens.shape, 5)).mean(), (state["intermediates"]["blocks"]["hidden"], tokens)

    run = jax.value_and_grad(loss_of, has_aux=True) if backward else lambda params: (loss_of(params), None)
    (_, (states, tokens)), gradient = jax.jit(run)(params)
    return states, tokens, {"encoder": gradient} if backward else None


def joined(encoded):
    """The tokens of an encoder, cls first if there is one."""
    return encoded.tokens if encoded.cls is None else jnp.concatenate([encoded.cls[:, None], encoded.tokens], axis=1)


def compare(name: str, actual, reference) -> None:
    """Compares two runs."""
    states, tokens, gradient = actual
    expected_states, expected, expected_gradient = reference
    assert len(states) == len(expected_states)
    assert_close(f"{name} states", max(map(relative, states, expected_states)))
    assert_close(f"{name} output", relative(tokens, expected))
    if expected_gradient is not None:
        errors = tree_errors(gradient, expected_gradient)
        worst = max(errors, key=lambda path: errors[path])
        assert_close(f"{name} gradients (worst: {worst} of {len(errors)})", errors[worst])
