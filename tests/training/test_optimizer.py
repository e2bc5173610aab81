"""AdamW's rules on the real tree of parameters, against optax's own update, and that every field of config.optimizer acts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvmae.objective import Objective
from cvmae.training import optimizer as optim
from tests.small import config, samples


@pytest.fixture(scope="module")
def params():
    c = config()
    c.video_branch.decoder.cls = "own"
    return Objective(c).init(jax.random.key(0), samples(c, 2))


def paths(tree):
    return {optim.path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_matrices_decay_and_nothing_else(params):
    decays, leaves = paths(optim.decay_mask(params)), paths(params)
    assert all(decays[path] == path.endswith("/kernel") for path in leaves)
    for path in (
        "/video/encoder/positions/space",
        "/video/encoder/positions/time",
        "/video/encoder/positions/cls",
        "/video/encoder/cls",
        "/video/decoder/mask_token",
        "/video/decoder/cls",
        "/video/encoder/blocks/block0/norm1/scale",
        "/video/encoder/blocks/block0/attention/query/bias",
    ):
        assert decays[path] is False


def test_a_parameter_that_no_rule_covers_is_an_error():
    with pytest.raises(ValueError, match="no weight decay rule covers the parameter /video/gate"):
        optim.decay_mask({"video": {"gate": jnp.ones(3)}})


def test_the_rate_warms_up_to_base_times_batch_over_256_and_ends_at_the_minimum():
    c = config().optimizer
    c.base_lr, c.min_lr = 1e-3, 1e-5
    rate = optim.learning_rate(c, batch_size=512, warmup=10, total=110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0, 1e-3, 2e-3], rtol=1e-5)
    np.testing.assert_allclose(rate(60), (2e-3 + 1e-5) / 2, rtol=1e-5)  # half-way down the cosine
    np.testing.assert_allclose(rate(110), 1e-5, rtol=1e-4)


def test_no_warm_up_starts_at_the_peak():
    c = config().optimizer
    assert optim.learning_rate(c, 256, 0, 100)(0) == pytest.approx(c.base_lr)


def one_update(gradient=2.0, frozen=lambda path: False, **fields):
    """Parameters after two updates of a small tree by the optimizer that `fields` of config.optimizer describe."""
    c = config(**{f"optimizer__{name}": value for name, value in fields.items()}).optimizer
    tx = optim.make_optimizer(c, lambda step: 0.1, frozen)
    tree = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    state = tx.init(tree)
    for scale in (1.0, 3.0):
        gradients = jax.tree.map(lambda a: a * gradient * scale, tree)
        updates, state = tx.update(gradients, state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree["layer"]


def test_it_is_optax_adamw_with_decay_on_the_kernel():
    tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.05, mask={"kernel": True, "bias": False})
    state = tx.init(tree)
    for scale in (1.0, 3.0):
        updates, state = tx.update(jax.tree.map(lambda a: a * 2.0 * scale, tree), state, tree)
        tree = optax.apply_updates(tree, updates)
    found = one_update(clip_norm=0.0)
    for name in tree:
        np.testing.assert_allclose(found[name], tree[name], rtol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"b1": 0.5}, {"b2": 0.5}, {"eps": 1.0}, {"weight_decay": 0.5}, {"clip_norm": 1e-6, "eps": 1e-3}]
)
def test_each_field_acts(fields):
    kept = {name: value for name, value in fields.items() if name == "eps" and len(fields) > 1}
    base = one_update(**({"clip_norm": 0.0} | kept))
    assert np.abs(one_update(**({"clip_norm": 0.0} | fields))["kernel"] - base["kernel"]).max() > 1e-4


def test_what_is_frozen_does_not_move_or_decay():
    found = one_update(frozen=lambda path: path.endswith("/kernel"), weight_decay=0.5)
    assert (found["kernel"] == 1).all() and (found["bias"] != 1).all()
