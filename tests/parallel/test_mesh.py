"""The mesh over the available devices, and the errors about sizes that do not fit."""

import types

import jax
import numpy as np
import pytest

from cvmae.parallel.mesh import AXES, _are_slices, batch_sharding, fill_sizes, make_mesh, make_rules, put_batch
from tests.tiny_configs import config


def test_minus_one_takes_all_devices():
    mesh = make_mesh(config().mesh)
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "model": 1}


@pytest.mark.parametrize(
    ("sizes", "slices", "devices", "expected"),
    [
        ((-1, 1, 1), 1, 8, (8, 1, 1)),
        ((-1, 4, 1), 1, 8, (2, 4, 1)),
        ((2, -1, 2), 1, 8, (2, 2, 2)),
        ((1, 4, -1), 1, 8, (1, 4, 2)),
        ((-1, 2, 1), 2, 16, (4, 2, 1)),
    ],
)
def test_one_axis_takes_the_devices_that_the_others_leave(sizes, slices, devices, expected):
    assert fill_sizes(list(sizes), slices, devices) == expected


@pytest.mark.parametrize(
    ("sizes", "slices", "message"),
    [
        ((3, 1, 1), 1, "config.mesh.data=3 .* need 3 devices or a multiple, there are 8"),
        ((2, 1, 1), 1, "need 2 devices or a multiple, there are 8: set config.mesh.data=-1"),
        ((-1, 3, 1), 1, "config.mesh.fsdp=3 .* need 3 devices"),
        ((-1, 1, 1), 3, "config.mesh.dcn=3 need 3 devices"),
        ((-1, 1, -1), 1, "only one of them can be -1: set config.mesh.model to a number"),
    ],
)
def test_a_mesh_that_does_not_fit_names_the_fix(sizes, slices, message):
    with pytest.raises(ValueError, match=message):
        fill_sizes(list(sizes), slices, 8)


def numbered(slices, processes):
    """Returns eight devices, spread evenly over slices (None: without a slice index) and processes."""
    attributes = [{} if slices is None else {"slice_index": n * slices // 8} for n in range(8)]
    return [types.SimpleNamespace(process_index=n * processes // 8, **more) for n, more in enumerate(attributes)]


@pytest.mark.parametrize(
    "slices, processes, count, expected", [(2, 4, 2, True), (2, 4, 4, False), (None, 4, 4, False), (1, 2, 2, False)]
)
def test_processes_count_as_slices_where_devices_have_no_slice_index(slices, processes, count, expected):
    """Devices of GPU machines and CPUs have none, or all of them the same one."""
    assert _are_slices(numbered(slices, processes), count) == expected


def test_a_wrong_number_of_slices_names_the_right_ones():
    with pytest.raises(ValueError, match="config.mesh.dcn=3: the devices have 2 slices and 4 processes: set it to one of these"):
        _are_slices(numbered(2, 4), 3)


def test_rules_come_from_the_config():
    c = config(sharding__mlp="fsdp+model", sharding__embed="")
    devices = np.array(jax.devices() * 8)[:8].reshape(2, 2, 2)
    rules = make_rules(jax.sharding.Mesh(devices, AXES), c.sharding)
    assert rules.spec(("embed", "mlp"), (32, 128)) == jax.P(None, ("fsdp", "model"))
    assert rules.spec(("embed", "mlp"), (32, 6)) == jax.P(None, None)  # does not divide
    assert rules.spec(("batch", "tokens", "mlp"), (8, 4, 16)) == jax.P(("data", "fsdp"), None, ("model",))  # fsdp is taken
    with pytest.raises(ValueError, match="config.sharding.mlp='pipe' names 'pipe': expected data, fsdp, model joined by ."):
        make_rules(jax.sharding.Mesh(devices, AXES), config(sharding__mlp="pipe").sharding)


def test_a_batch_becomes_global_arrays():
    mesh = make_mesh(config().mesh)
    rows = np.arange(8 * 3).reshape(8, 3)
    array = put_batch({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding == batch_sharding(mesh)
