"""Fine-tuning's rates and weight decay of ViT-B, group by group, against the published rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cvmae.config import load
from cvmae.models.build import build_classifier
from cvmae.tasks.model_fields import fill_fields
from cvmae.training.optimizer import decay_mask, layer_of, make_optimizer
from tests.tiny_configs import CONFIGS

DEPTH = 12


def vit_b(argument: str):
    """The config `configs/ssv2.py:task=finetune`, and the parameter shapes of its classifier."""
    c, _ = fill_fields(load(f"{CONFIGS / 'ssv2.py'}:task=finetune,{argument}"))
    model, clip = build_classifier(c, 174), jnp.zeros((1, 16, 224, 224, 3))
    return c, jax.eval_shape(model.init, jax.random.key(0), clip)["params"]


def flat(tree) -> dict:
    return {"/" + name: leaf for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def published_layer(name: str) -> int:
    """MAE's and VideoMAE's rule in words: the patch embedding, the cls token and positions are layer 0, block i is i + 1, all else 13."""
    parts = name.split("/")[1:]
    if parts[:2] == ["encoder", "blocks"]:
        return int(parts[2].removeprefix("block")) + 1
    return 0 if parts[0] == "encoder" and parts[1] in ("embed", "cls", "positions") else DEPTH + 1


@pytest.mark.parametrize("argument", ["variant=B/16", "variant=B/16,parent=videomae"])
def test_every_group_has_the_published_multiplier_and_decay(argument):
    c, shapes = vit_b(argument)
    ones = jax.tree.map(lambda a: jnp.ones(a.shape[:1]), shapes)  # a row of each is enough
    optimizer = make_optimizer(c.optimizer, lambda step: 1.0, depth=DEPTH)
    # From zero gradients an update is the weight decay alone, times the layer's rate.
    zeros = jax.tree.map(jnp.zeros_like, ones)
    updates, _ = jax.jit(lambda: optimizer.update(zeros, optimizer.init(ones), ones))()
    for name, update in flat(updates).items():
        layer = published_layer(name)
        assert layer_of(name, DEPTH) == layer, name
        decays = len(flat(shapes)[name].shape) > 1 and "positions" not in name
        expected = -0.05 * 0.75 ** (DEPTH + 1 - layer) if decays else 0.0
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)


def test_the_table_of_vit_b():
    # 0.75 ** (13 - i): what VideoMAE prints for ViT-B at the start of fine-tuning.
    table = [0.0238, 0.0317, 0.0422, 0.0563, 0.0751, 0.1001, 0.1335, 0.1780, 0.2373, 0.3164, 0.4219, 0.5625, 0.75, 1.0]
    names = ["/encoder/embed/kernel", *(f"/encoder/blocks/block{i}/mlp_in/bias" for i in range(DEPTH)), "/head/kernel"]
    assert [round(0.75 ** (DEPTH + 1 - layer_of(name, DEPTH)), 4) for name in names] == table


def test_biases_norms_positions_and_tokens_do_not_decay():
    _, shapes = vit_b("variant=B/16")
    kinds = {name.rpartition("/")[2] for name, decays in flat(decay_mask(shapes)).items() if not decays}
    assert kinds == {"bias", "scale", "cls", "space", "time"}
    assert {name.rpartition("/")[2] for name, decays in flat(decay_mask(shapes)).items() if decays} == {"kernel"}


def test_gradients_are_scaled_too():
    c = load(f"{CONFIGS / 'ssv2.py'}:task=finetune", {"optimizer.weight_decay": 0.0, "optimizer.layer_decay": 0.5})
    params = {"encoder": {"embed": {"kernel": jnp.ones((2, 2))}, "blocks": {"block1": {"norm1": {"scale": jnp.ones(2)}}}}}
    optimizer = make_optimizer(c.optimizer, lambda step: 1.0, depth=2)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    # Adam's first step is 1 in every direction.
    np.testing.assert_allclose(updates["encoder"]["embed"]["kernel"], -(0.5**3), rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["blocks"]["block1"]["norm1"]["scale"], -0.5, rtol=1e-5)
