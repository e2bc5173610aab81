"""Run by test_latent_targets with eight devices: losses of three steps by a teacher's features, on one device and on two meshes, as JSON."""

import json
import pathlib
import sys

import jax
import numpy as np

from cvmae.parallel.mesh import AXES, make_mesh
from tests.tasks.test_latent_targets import GRID, batch, latent
from tests.tiny_configs import make_task


def losses(folder, shape, **fields) -> list[float]:
    sizes = {f"mesh__{axis}": size for axis, size in zip(AXES, shape)}
    c = latent(folder, ("mse_video",), **GRID, **sizes, **fields, batch_size=8, optimizer__warmup="0_steps")
    task = make_task(c, mesh=make_mesh(c.mesh, jax.devices()[: np.prod(shape)]))
    state, values = task.initial_state(), []
    for seed in range(3):
        state, metrics = task.step(state, batch(task, seed))
        values += [float(metrics[f"loss/{name}"]) for name in ("latent_video", "mse_video")]
    return values


if __name__ == "__main__":
    folder, file = sys.argv[1:]
    found = [
        losses(folder, (1, 1, 1)),
        losses(folder, (8, 1, 1)),
        losses(folder, (2, 2, 2), scan=True, optimizer_sharding="data"),
    ]
    pathlib.Path(file).write_text(json.dumps(found))
