"""Five steps on every shape of mesh are those of one device: losses, gradients, parameters; and what a device then holds."""

import pathlib

import numpy as np
import pytest

from tests.commands import host_devices, run
from tests.properties.mesh_steps import MESHES

QUICK = ("one", "8,1,1", "2,2,2")  # every axis, and how blocks are stored and sharded
MANY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MESHES if name != "one"]


class Runs(dict):
    """What `mesh_steps` found, {mesh: {name: array}}; the slow meshes are run once one of them is asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, mesh):
        names = [name for name in MESHES if (name in QUICK) == (mesh in QUICK)]
        program, file = pathlib.Path(__file__).parent / "mesh_steps.py", self.folder / f"{mesh}.npz"
        done = run(str(file), *names, program=(str(program),), env=host_devices(8))
        assert done.returncode == 0, done.stderr
        with np.load(file) as arrays:
            for name in arrays:
                ran, _, rest = name.partition("|")
                self.setdefault(ran, {})[rest] = arrays[name]
        return self[mesh]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("meshes"))


def starting(found, prefix):
    chosen = {name: array for name, array in found.items() if name.startswith(prefix)}
    assert chosen
    return chosen


@pytest.mark.parametrize("mesh", MANY)
def test_the_numbers_of_every_step(mesh, runs):
    one = runs["one"]
    for step in range(5):
        for name in ("loss", "loss/mse_video", "feature_std/video", "optimizer/grad_norm"):
            np.testing.assert_allclose(runs[mesh][f"{name}/{step}"], one[f"{name}/{step}"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("what", ["gradient", "params", "ema"])
@pytest.mark.parametrize("mesh", MANY)
def test_every_array(mesh, what, runs):
    one, many = starting(runs["one"], what), starting(runs[mesh], what)
    assert one.keys() == many.keys()
    scale = max(np.abs(array).max() for array in one.values())
    for name, array in one.items():
        # A key's gradient is rounding noise in both, which Adam turns into whole steps.
        if "['key']['bias']" not in name:
            # Sums over devices add in another order: an entry that is a difference of large ones keeps fewer digits.
            np.testing.assert_allclose(many[name], array, rtol=1e-4, atol=2e-6 * scale, err_msg=name)


@pytest.mark.parametrize("mesh", MANY)
def test_the_contrast_of_parts_of_rows(mesh, runs):
    np.testing.assert_allclose(runs[mesh]["contrast"], runs["one"]["contrast"], rtol=5e-6)  # 1.2e-6 with jax 0.12


@pytest.mark.parametrize("kernel", ["splash", "lanes"])
def test_attention_by_a_kernel_of_each_device(kernel, runs):
    one, many = (runs[mesh][f"attention_{kernel}"] for mesh in ("one", "2,2,2"))
    np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


HELD = {
    # mesh: [embed, mlp], [mlp, embed], [embed, heads], [patch, embed] of 32, 128, 32 and 1536
    "8,1,1": ((32, 128), (128, 32), (32, 32), (1536, 32)),
    "1,8,1": ((4, 128), (128, 4), (4, 32), (1536, 4)),
    "2,2,2": ((16, 64), (64, 16), (16, 16), (1536, 16)),
    "4,1,2": ((32, 64), (64, 32), (32, 16), (1536, 32)),
}


@pytest.mark.parametrize("mesh", MANY)
def test_what_a_device_holds(mesh, runs):
    shards, block = starting(runs[mesh], "shard"), "shard['video']['encoder']['blocks']['block0']"
    names = (
        f"{block}['mlp_in']['kernel']",
        f"{block}['mlp_out']['kernel']",
        f"{block}['attention']['query']['kernel']",
        "shard['video']['encoder']['embed']['kernel']",
    )
    assert tuple(tuple(shards[name].tolist()) for name in names) == HELD[mesh]


SHARDED = {
    # mesh: [embed, mlp], [mlp] and [patch, embed] of a moment: 32 x 128, 128 and 1536 x 32
    "8,1,1": ((4, 128), (16,), (192, 32)),
    "2,2,2": ((16, 64), (64,), (768, 16)),
    "4,1,2": ((32, 64), (64,), (1536, 32)),  # auto, and smaller than what it shards
}


@pytest.mark.parametrize("mesh", [param for param in MANY if param.values[0] in SHARDED])
@pytest.mark.parametrize("kind", ["opt_state", "ema"])
def test_the_part_of_the_optimizer_state_on_a_device(mesh, kind, runs):
    shapes, encoder = starting(runs[mesh], f"held/{kind}"), "['video']['encoder']"
    for name, shape in zip(
        ("['blocks']['block0']['mlp_in']['kernel']", "['mlp_in']['bias']", "['embed']['kernel']"), SHARDED[mesh]
    ):
        chosen = [array for path, array in shapes.items() if encoder in path and path.endswith(name)]
        assert chosen and all(tuple(array.tolist()) == shape for array in chosen), name


def test_eight_devices_need_an_eighth_of_the_optimizer_state_each(runs):
    one, eight = runs["one"], runs["8,1,1"]
    assert eight["bytes/params"] == one["bytes/params"]
    for kind in ("opt_state", "ema"):
        assert one[f"bytes/{kind}"] / 8 <= eight[f"bytes/{kind}"] < one[f"bytes/{kind}"] / 7.9
