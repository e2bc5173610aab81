"""Checkpoints: the newest are kept, they come back bit-equal, and one that does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvmae.config import ConfigError
from cvmae.training.checkpoint import Checkpoints, check_position
from cvmae.training.state import create


def state(scale=1.0, width=3, **more):
    params = {"w": jnp.arange(2 * width, dtype=jnp.float32).reshape(2, width) * scale} | more
    return create(params, optax.adam(0.1), ema_decay=0.5)


def abstract(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step / 3), {"step": step, "seconds": 0.5})
    checkpoints.close()
    return tmp_path


def test_the_newest_comes_back_bit_equal_with_its_position(saved):
    checkpoints = Checkpoints(str(saved), keep=2)
    restored, position = checkpoints.restore(abstract(state()))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state(1.0))
    assert position == {"step": 3, "seconds": 0.5}


def test_only_so_many_are_kept(saved):
    assert sorted(path.name for path in (saved / "checkpoints").iterdir() if path.name.isdigit()) == ["2", "3"]


def test_an_empty_workdir_has_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    assert checkpoints.latest is None and checkpoints.restore(abstract(state())) is None
    checkpoints.close()


@pytest.mark.parametrize("other", [state(width=4), state(more=jnp.ones(1))], ids=["shape", "parameter"])
def test_another_model_is_refused_in_one_line(saved, other):
    checkpoints = Checkpoints(str(saved), keep=2)
    with pytest.raises(ConfigError, match="does not fit this config.*give another --workdir") as error:
        checkpoints.restore(abstract(other))
    assert "\n" not in str(error.value)
    checkpoints.close()


def test_another_order_of_data_is_refused():
    check_position({"step": 3, "seed": 0}, {"seed": 0, "batch_size": 8})
    with pytest.raises(ConfigError, match="made with seed=0, this run has 1"):
        check_position({"step": 3, "seed": 0}, {"seed": 1})
