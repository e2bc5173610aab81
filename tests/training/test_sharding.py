"""The mesh over the devices there are, and what is said of one that does not fit."""

import jax
import numpy as np
import pytest

from cvmae.training import sharding
from tests.small import config


def test_minus_one_takes_all_devices():
    mesh = sharding.make_mesh(config().mesh)
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "model": 1}


@pytest.mark.parametrize(
    ("field", "size", "message"),
    [
        ("data", jax.device_count() + 1, "set it to {n}, or to -1"),
        ("data", 0, "set it to {n}, or to -1"),
        ("fsdp", 2, "set config.mesh.fsdp=1"),
        ("model", 2, "set config.mesh.model=1"),
    ],
)
def test_a_mesh_that_does_not_fit_names_the_fix(field, size, message):
    with pytest.raises(ValueError, match=f"config.mesh.{field}={size}.*{message.format(n=jax.device_count())}"):
        sharding.make_mesh(config(**{f"mesh__{field}": size}).mesh)


def test_a_batch_becomes_global_arrays():
    mesh = sharding.make_mesh(config().mesh)
    rows = np.arange(8 * 3).reshape(8, 3)
    array = sharding.to_devices({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding == sharding.over_batch(mesh)
