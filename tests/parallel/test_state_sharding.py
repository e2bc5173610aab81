"""Shardings of moments and averages over the data axis, against partitions worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.parallel.mesh import AXES, make_rules
from cvmae.parallel.state_sharding import MIN_ENTRIES, StateSharding
from cvmae.tasks.validate import validate
from tests.tiny_configs import config, downstream, make_task


def sharding(mode, *sizes, **more):
    """Returns the shardings of a mesh of these sizes, whose devices may be one and the same: nothing is computed on it."""
    devices = np.array(jax.devices() * np.prod(sizes))[: np.prod(sizes)].reshape(sizes)
    return StateSharding(make_rules(jax.sharding.Mesh(devices, AXES), config().sharding), mode, **more)


DENSE = "/encoder/blocks/block0/mlp_in/kernel"


@pytest.mark.parametrize(
    ("sizes", "path", "shape", "expected"),
    [
        ((8, 1, 1), DENSE, (768, 3072), ("data", None)),
        ((8, 1, 1), DENSE, (770, 3072), (None, "data")),  # 770 does not divide
        ((8, 1, 1), DENSE, (770, 3074), (None, None)),
        ((8, 1, 1), "/encoder/positions/table", (1, 1568, 768), (None, "data", None)),
        ((4, 2, 1), DENSE, (768, 3072), (("fsdp",), "data")),  # the first axis lies over fsdp
        ((2, 2, 2), DENSE, (768, 3072), (("fsdp",), ("model",))),  # nothing is left
        ((4, 1, 2), "/encoder/blocks/block0/mlp_out/kernel", (3072, 768), (("model",), "data")),
    ],
)
def test_the_data_axis_takes_the_first_free_axis_that_divides(sizes, path, shape, expected):
    assert sharding("auto", *sizes).of_leaf(f"/opt_state/0/mu{path}", shape).spec == jax.P(*expected)


@pytest.mark.parametrize(
    ("mode", "shape", "expected"),
    [
        ("auto", (MIN_ENTRIES // 8 - 1, 8), (None, None)),
        ("auto", (MIN_ENTRIES // 8, 8), ("data", None)),
        ("data", (8,), ("data",)),
        ("data", (), ()),
        ("replicated", (768, 3072), (None, None)),
    ],
)
def test_small_arrays_are_sharded_only_on_request(mode, shape, expected):
    assert sharding(mode, 8, 1, 1).of_leaf("/x", shape).spec == jax.P(*expected)


def test_the_heads_of_a_grid_are_not_sharded():
    assert sharding("auto", 8, 1, 1, stacked=1).of_leaf("/linear/kernel", (16, 768, 174)).spec == jax.P(None, "data", None)
    state = make_task(downstream("attentive", optimizer_sharding="data")).state_sharding
    assert (state.mode, state.stacked) == ("data", 1)


def test_an_array_over_the_data_axis_already_stays():
    rules = make_rules(sharding("auto", 8, 1, 1).rules.mesh, config(sharding__embed="data").sharding)
    assert StateSharding(rules).of_leaf(DENSE, (768, 3072)).spec == jax.P(("data",), None)


def test_without_a_data_axis_nothing_is_constrained():
    array = jnp.zeros((768, 768))
    for mode, sizes in (("data", (1, 1, 1)), ("data", (1, 8, 1)), ("replicated", (8, 1, 1))):
        assert sharding(mode, *sizes).constrain(DENSE, array) is array


def test_a_config_of_an_earlier_version_has_the_default():
    c = config()
    with c.unlocked():
        del c.optimizer_sharding
    assert make_task(c).state_sharding.mode == "auto"


def test_a_wrong_value_names_the_right_ones():
    with pytest.raises(
        ConfigError, match="config.optimizer_sharding='zero' cannot be used: it must be one of auto, replicated, data$"
    ):
        validate(config(optimizer_sharding="zero"))
