"""Run by test_meshes with eight devices: five training steps on each of the meshes FILE NAME..., as npz."""

import sys

import jax
import numpy as np

from cvmae.models.attention import attend
from cvmae.objective.losses import nt_xent
from cvmae.parallel.mesh import AXES, batch_sharding, make_mesh
from tests.tiny_configs import config, make_task, samples

# data, fsdp, model; how blocks are run and stored changes no number either.
MESHES = {
    "one": ((1, 1, 1), {}),
    "8,1,1": ((8, 1, 1), {"optimizer_sharding": "data"}),
    "1,8,1": ((1, 8, 1), {"scan": True}),
    "2,2,2": ((2, 2, 2), {"remat": "full", "optimizer_sharding": "data"}),
    "4,1,2": ((4, 1, 2), {"scan": True, "remat": "dots"}),
}
KERNEL_MESHES = ((1, 1, 1), (2, 2, 2))
STEPS = 5


def run(shape, overrides) -> dict[str, np.ndarray]:
    fields = {f"mesh__{axis}": size for axis, size in zip(AXES, shape)} | overrides
    c = config(("mse_video",), optimizer__clip_norm=0.0, optimizer__ema_decay=0.9, **fields)
    mesh = make_mesh(c.mesh, jax.devices()[: np.prod(shape)])
    task = make_task(c, STEPS, mesh)
    state = task.initial_state()
    found: dict[str, np.ndarray] = {}
    shards = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in named(state.params)}
    found |= {f"shard{path}": np.array(shape) for path, shape in shards.items()}
    found |= held(state)
    for step in range(STEPS):
        batch = {name: samples(c, 8, seed=step)[name] for name in ("video", "frame_index")}
        state, metrics = task.step(state, batch)
        found |= {f"{name}/{step}": value for name, value in jax.device_get(metrics).items()}
        if step == 0:
            # With no clipping, Adam's first moment after one step is the gradient times 1 - b1.
            found |= {"gradient" + path: np.asarray(leaf) for path, leaf in named(state.opt_state) if "mu" in path}
    for name, tree in (("params", state.params), ("ema", state.ema)):
        found |= {name + path: np.asarray(leaf) for path, leaf in named(tree)}
    found["contrast"] = contrast(mesh)
    if shape in KERNEL_MESHES:
        found |= {f"attention_{kernel}": attention(kernel, task.rules) for kernel in ("splash", "lanes")}
    return found


def held(state) -> dict[str, np.ndarray]:
    """Shapes of the arrays of the first device of the mesh, and the bytes of all of them."""
    local = {
        kind: {path: leaf.addressable_shards[0].data for path, leaf in named(getattr(state, kind))}
        for kind in ("params", "opt_state", "ema")
    }
    shapes = {f"held/{kind}{path}": np.array(a.shape) for kind, arrays in local.items() for path, a in arrays.items()}
    return shapes | {f"bytes/{kind}": np.array(sum(a.nbytes for a in arrays.values())) for kind, arrays in local.items()}


def contrast(mesh) -> np.ndarray:
    """The loss of every anchor of 16 pairs, at most 8 of them at once."""
    pairs = np.random.default_rng(0).normal(size=(2, 16, 4)).astype(np.float32)
    rows = batch_sharding(mesh)
    return np.asarray(jax.jit(lambda a, b: nt_xent(a, b, max_anchors=8).loss)(*(jax.device_put(side, rows) for side in pairs)))


def attention(kernel: str, rules) -> np.ndarray:
    """The gradient of attention over 8 clips by a kernel that XLA cannot partition, and its value last."""
    arrays = np.random.default_rng(0).normal(size=(3, 8, 5, 2, 8)).astype(np.float32)

    def run(*arrays):
        return jax.value_and_grad(lambda arrays: (attend(*arrays, kernel, rules) ** 2).sum())(arrays)

    total, gradients = jax.jit(run)(*(jax.device_put(array, batch_sharding(rules.mesh)) for array in arrays))
    return np.concatenate([*(np.asarray(gradient).ravel() for gradient in gradients), [total]])


def named(tree):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


if __name__ == "__main__":
    every = {name: run(*MESHES[name]) for name in sys.argv[2:]}
    np.savez(
        sys.argv[1],
        allow_pickle=False,
        **{f"{mesh}|{name}": array for mesh, found in every.items() for name, array in found.items()},
    )
