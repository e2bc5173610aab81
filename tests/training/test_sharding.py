"""The mesh of a config, and arrays over it, on the devices there are."""

import jax
import numpy as np
import pytest

from cvmae.training import sharding
from tests.small import config


def test_the_data_axis_takes_all_devices():
    mesh = sharding.make_mesh(config().mesh)
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "model": 1}


@pytest.mark.parametrize("axis", ["fsdp", "model"])
def test_axes_that_are_not_there_yet_are_refused(axis):
    with pytest.raises(ValueError, match=f"config.mesh.{axis}=2"):
        sharding.make_mesh(config(**{f"mesh__{axis}": 2}).mesh)


def test_a_size_that_is_not_the_number_of_devices_is_refused():
    wrong = jax.device_count() + 1
    with pytest.raises(ValueError, match=f"config.mesh.data={wrong}, but there are {jax.device_count()} devices"):
        sharding.make_mesh(config(mesh__data=wrong).mesh)


def test_a_batch_becomes_a_global_array():
    mesh = sharding.make_mesh(config().mesh)
    rows = np.arange(8 * jax.device_count()).reshape(-1, 2)
    array = sharding.to_devices({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding == sharding.over_batch(mesh)
