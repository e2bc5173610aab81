"""peft's LoRA on transformers' VideoMAE against this package's with the same weights: logits, gradients of the updates, merged weights."""

import importlib.util

import jax
import numpy as np
import optax
import pytest

from cvmae.interop import read
from cvmae.models.trained_part import init_lora, join, merge_lora
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.parity import torch
from tests.interop.test_parity_classifier import as_pixels, clips, save
from tests.requirements import missing

if not importlib.util.find_spec("peft"):
    missing("parity", "peft comes with the extra: pip install '.[parity]'")

import peft

RANK, ALPHA = 4, 6.0


def peft_model(folder):
    """A transformers classifier of random weights, saved in a folder, with peft's updates of queries and values, random too."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["query", "value"])
    model = peft.get_peft_model(save(folder, use_mean_pooling=True), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def as_updates(model, value):
    """A tree of this package's updates out of peft's parameters; `value` takes the weight or the gradient of one."""
    tree = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            block, target = (
                name.partition("layer.")[2].partition(".")[0],
                name.split(".attention.attention.")[1].partition(".")[0],
            )
            node = tree.setdefault(f"block{block}", {"attention": {}})["attention"].setdefault(target, {})
            node["lora_a" if "lora_A" in name else "lora_b"] = value(parameter).detach().numpy().T
    return {"encoder": {"blocks": tree}}


def test_logits_and_gradients_of_the_updates(tmp_path):
    model = peft_model(tmp_path)
    module, params = read(tmp_path).take()
    updates, labels = as_updates(model, lambda parameter: parameter), np.array([1, 0, 2])
    shapes = jax.tree.map(np.shape, init_lora(jax.random.key(0), {"encoder": params["encoder"]}, RANK))
    assert jax.tree.map(np.shape, updates) == shapes
    clip = clips(module.encoder.grid)

    def loss_of(updates):
        logits = module.apply({"params": merge_lora(join(params, updates), ALPHA)}, clip)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(updates)
    reference = model(pixel_values=as_pixels(clip), labels=torch.from_numpy(labels))
    reference.loss.backward()
    assert_close("logits", relative(logits, reference.logits.detach().numpy()), 1e-5)
    assert relative(logits, np.asarray(jax.jit(module.apply)({"params": params}, clip))) > 0.01  # the updates matter
    errors = tree_errors(gradients, as_updates(model, lambda parameter: parameter.grad))
    assert len(errors) == 8
    assert_close("gradients of the updates", max(errors.values()))


def test_merged_weights_are_those_that_peft_merges(tmp_path):
    model = peft_model(tmp_path / "base")
    updates = as_updates(model, lambda parameter: parameter)
    mine = merge_lora(join(read(tmp_path / "base").params, updates), ALPHA)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    theirs = read(tmp_path / "merged").params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mine, theirs)


def test_new_updates_change_nothing_and_are_spread_as_those_of_peft(tmp_path):
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    torch.manual_seed(0)
    theirs = as_updates(peft.get_peft_model(save(tmp_path, use_mean_pooling=True), config), lambda parameter: parameter)
    params = read(tmp_path).params
    mine = init_lora(jax.random.key(0), {"encoder": params["encoder"]}, RANK)
    jax.tree.map(np.testing.assert_array_equal, merge_lora(join(params, mine), ALPHA), params)
    rows = [np.concatenate([a.ravel() for a in jax.tree.leaves(tree) if a.shape[0] > RANK]) for tree in (mine, theirs)]
    limit = 48**-0.5
    assert all(0.95 * limit < np.abs(values).max() <= limit for values in rows)
    assert rows[0].std() == pytest.approx(rows[1].std(), rel=0.1)
