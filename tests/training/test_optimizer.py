"""What decays, how the learning rate runs, and that every field of config.optimizer does something."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from cvmae.objective.objective import Objective
from cvmae.training.optimizer import decay_mask, make_optimizer, make_schedule, path_of
from cvmae.training.train_state import apply_gradients, create_state
from tests.tiny_configs import config, samples


def flat(tree):
    return {"/" + name: leaf for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize("positions", ["separable", "learned"])
def test_matrices_alone_decay(positions):
    c = config(video_branch__positions=positions, video_branch__decoder__positions=positions)
    decays = flat(decay_mask(jax.eval_shape(Objective(c).init, jax.random.key(0), samples(c))))
    for name, decay in decays.items():
        assert decay == name.endswith("/kernel"), name
    kinds = {name.rpartition("/")[2] for name, decay in decays.items() if not decay}
    tables = {"space", "time"} if positions == "separable" else {"table"}
    assert kinds == {"bias", "scale", "cls", "mask_token"} | tables


def test_a_parameter_that_no_rule_covers_is_refused():
    with pytest.raises(ValueError, match="no weight decay rule covers the parameter /head/temperature"):
        decay_mask({"head": {"temperature": jnp.zeros(())}})


def test_the_rate_rises_to_base_times_batch_over_256_and_falls_to_min_lr():
    c = config(optimizer__base_lr=1e-3, optimizer__min_lr=1e-5).optimizer
    rate = make_schedule(c, batch_size=512, warmup=10, total=110)
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([0.0, 1e-3, 2e-3])
    assert float(rate(60)) == pytest.approx((2e-3 + 1e-5) / 2)
    assert [float(rate(step)) for step in (110, 200)] == pytest.approx([1e-5, 1e-5])


@pytest.mark.parametrize("warmup", [0, 4, 9])
def test_a_rate_is_finite_whatever_the_warm_up(warmup):
    rate = make_schedule(config().optimizer, 8, warmup, total=4)
    assert np.isfinite([float(rate(step)) for step in range(5)]).all()
    assert warmup or float(rate(0)) > 0


def test_it_is_optax_adamw_with_decay_on_the_kernel():
    plain = optax.adamw(make_schedule(config(optimizer__base_lr=0.3).optimizer, 256, 1, 4), 0.9, 0.95, 1e-8, weight_decay=0.05,
                        mask={"layer": {"kernel": True, "bias": False}})  # fmt: skip
    state = create_state(PARAMS, plain, 0.0)
    for gradients in GRADIENTS:
        state, _ = apply_gradients(state, gradients, plain, 0.0)
    assert distance(state.params, train(clip_norm=0.0)[0].params) < 1e-7


PARAMS = {"layer": {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.full(2, 0.5)}}
GRADIENTS = [jax.tree.map(lambda a, s=s: a * 0 + s, PARAMS) for s in (3.0, -0.1, 0.5)]


def train(frozen=lambda path: False, **fields):
    """The state after three updates with known gradients."""
    c = config(**{f"optimizer__{name}": value for name, value in {"clip_norm": 1.0, "base_lr": 0.3, **fields}.items()}).optimizer
    optimizer = make_optimizer(c, make_schedule(c, 256, warmup=1, total=4), frozen)
    state = create_state(PARAMS, optimizer, c.ema_decay)
    for gradients in GRADIENTS:
        state, norms = apply_gradients(state, gradients, optimizer, c.ema_decay)
    return state, norms


def distance(a, b):
    return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


CHANGES = {
    "base_lr": 0.2,
    "min_lr": 0.1,
    "b1": 0.5,
    "b2": 0.5,
    "eps": 0.1,
    "weight_decay": 0.5,
    "clip_norm": 0.01,
    "ema_decay": 0.5,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_what_is_evaluated(field):
    fields = {"eps": 1e-3, field: CHANGES[field]} if field == "clip_norm" else {field: CHANGES[field]}
    base = {"eps": 1e-3} if field == "clip_norm" else {}
    assert distance(train(**base)[0].evaluated, train(**fields)[0].evaluated) > 1e-4


def test_no_field_is_left_out_above():
    assert set(CHANGES) == set(config().optimizer) - {"warmup", "schedule", "cooldown", "cooldown_shape"}  # see test_schedule.py


def test_decay_shrinks_matrices_and_leaves_biases():
    with_decay, without = train(weight_decay=0.5)[0].params["layer"], train(weight_decay=0.0)[0].params["layer"]
    assert (with_decay["kernel"] < without["kernel"]).all()
    np.testing.assert_array_equal(with_decay["bias"], without["bias"])


def test_clipping_is_by_the_norm_of_all_gradients():
    # Adam hardly sees a constant scale, but its first moment does.
    clipped = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(train(clip_norm=0.01)[0].opt_state) if "mu" in str(path)
    ]
    assert 0 < float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in clipped))) <= 0.01
    assert float(train(clip_norm=0.01)[1]["optimizer/grad_norm"]) == pytest.approx(0.5 * 6**0.5)  # logged before clipping


def test_zero_turns_clipping_off():
    assert distance(train(clip_norm=0.0)[0].opt_state, train(clip_norm=1e9)[0].opt_state) == 0


def test_the_moving_average_follows_the_parameters():
    state, _ = train(ema_decay=0.5)
    assert state.evaluated is state.ema and distance(state.ema, state.params) > 1e-3
    assert train()[0].ema is None and distance(train(ema_decay=0.5)[0].params, train()[0].params) == 0


def test_what_is_frozen_keeps_its_bits_and_has_no_moments():
    state, _ = train(frozen=lambda path: path == "/layer/kernel", weight_decay=0.5)
    np.testing.assert_array_equal(state.params["layer"]["kernel"], PARAMS["layer"]["kernel"])
    assert (state.params["layer"]["bias"] != PARAMS["layer"]["bias"]).all()
    moments = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not [name for name in moments if "kernel" in name]
