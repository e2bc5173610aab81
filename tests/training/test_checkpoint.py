"""Checkpoints hold everything to the bit, N of them, and go back only into a run that they fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvmae.config import ConfigError
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.train_state import create_state
from tests.commands import host_devices, run

OPTIMIZER = optax.adamw(1e-3)


def state(width: int = 3, seed: int = 0, ema: float = 0.9, names=("kernel", "bias")):
    draw = np.random.default_rng(seed)
    return create_state({name: jnp.asarray(draw.normal(size=width), jnp.float32) for name in names}, OPTIMIZER, ema)


def abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), tree)


def save(folder, *steps, keep=2):
    checkpoints = Checkpoints(str(folder), keep)
    for step in steps:
        checkpoints.save(step, state(seed=step), {"step": step, "seconds": 0.1 + step})
    checkpoints.close()


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def restore(folder, wanted):
    checkpoints = Checkpoints(str(folder), 2)
    try:
        return checkpoints.restore(abstract(wanted))
    finally:
        checkpoints.close()


def test_what_is_restored_is_what_was_saved(tmp_path):
    save(tmp_path, 2, 4)
    restored, position = restore(tmp_path, state())
    assert position == {"step": 4, "seconds": 4.1, "checksums": True}
    expected = state(seed=4)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_state_may_be_overwritten_once_save_returns(tmp_path):
    checkpoints, saved = Checkpoints(str(tmp_path), 2), state()
    expected = np.array(saved.params["kernel"])
    checkpoints.save(1, saved, {"step": 1})
    jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s), donate_argnums=0)(saved)
    checkpoints.close()
    np.testing.assert_array_equal(restore(tmp_path, state())[0].params["kernel"], expected)


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_n_are_kept(tmp_path, keep):
    save(tmp_path, 1, 2, 3, 4, keep=keep)
    assert names(tmp_path) == ["1", "2", "3", "4"][-keep:]


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path, state()) is None


def test_what_a_kill_left_half_written_is_cleared_and_not_restored(tmp_path):
    save(tmp_path, 2)
    (tmp_path / "checkpoints" / "2").rename(tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-1")
    save(tmp_path, 1)
    assert restore(tmp_path, state())[1]["step"] == 1 and names(tmp_path) == ["1"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (state(width=4), r"/bias is \(3,\) there and \(4,\) here"),
        (state(names=("kernel", "offset")), r"/bias is \(3,\) there and absent here"),
        (state(ema=0.0), "does not fit this config"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path, other, message):
    save(tmp_path, 2)
    with pytest.raises(ConfigError, match=message) as refused:
        restore(tmp_path, other)
    assert "--workdir" in str(refused.value) and "\n" not in str(refused.value)


ON_EIGHT = """
import sys, jax, numpy as np
from cvmae.parallel.mesh import make_mesh, replicated
from cvmae.training import checkpoint
from tests.tiny_configs import config
from tests.training.test_checkpoint import state
everywhere = replicated(make_mesh(config().mesh))
wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), state())
restored, _ = checkpoint.Checkpoints(sys.argv[1], 2).restore(wanted)
assert len(restored.params["kernel"].sharding.device_set) == 8
jax.tree.map(np.testing.assert_array_equal, restored, state(seed=4))
"""


def test_a_checkpoint_goes_to_another_number_of_devices(tmp_path):
    save(tmp_path, 4)
    done = run(str(tmp_path), program=("-c", ON_EIGHT), env=host_devices(8))
    assert done.returncode == 0, done.stderr


def save_permanent(folder, steps, permanent, keep=1):
    """Saves `steps`, those of `permanent` for ever."""
    checkpoints = Checkpoints(str(folder), keep)
    for step in steps:
        checkpoints.save(step, state(seed=step), {"step": step}, permanent=step in permanent)
    checkpoints.close()


def test_permanent_checkpoints_stay_beside_the_newest(tmp_path):
    save_permanent(tmp_path, range(1, 8), permanent={3, 6})
    assert names(tmp_path) == ["3", "6", "7"]


def test_a_later_run_that_asks_for_none_deletes_no_permanent_checkpoint(tmp_path):
    save_permanent(tmp_path, range(1, 5), permanent={2, 3})
    save_permanent(tmp_path, range(5, 9), permanent={6})
    save(tmp_path, 9, 10, keep=1)
    assert names(tmp_path) == ["10", "2", "3", "6"]
    assert restore(tmp_path, state())[1]["step"] == 10


def test_a_permanent_checkpoint_is_resumed_from_like_any_other(tmp_path):
    save_permanent(tmp_path, (1, 2), permanent={2})
    restored, position = restore(tmp_path, state())
    assert position["step"] == 2
    np.testing.assert_array_equal(restored.params["kernel"], state(seed=2).params["kernel"])
