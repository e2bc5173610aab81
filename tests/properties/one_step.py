"""Run by test_devices in a process with some number of devices: one training step, and the views and masks in it, as npz."""

import sys

import jax
import numpy as np

from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel.mesh import put_batch
from tests.tiny_configs import config, make_task, samples

BATCH = 8


def arrays() -> dict[str, np.ndarray]:
    c = config(contrast__time_reversed_negatives=True, augment__flip=0.5, image_branch__frames=2, optimizer__clip_norm=0.0)
    task = make_task(c)
    batch = {name: samples(c, BATCH)[name] for name in ("video", "frame_index")}
    found = jax.device_get(jax.jit(lambda b: views_and_masks(task, b))(put_batch(batch, task.mesh)))
    if jax.device_count() == 1:
        found["losses_alone"] = losses_alone(task, batch)
    state, metrics = task.step(task.initial_state(), batch)
    # With no clipping, Adam's first moment after one step is the gradient times 1 - b1.
    moment = {"gradient" + jax.tree_util.keystr(path): leaf for path, leaf in leaves(state.opt_state) if "mu" in str(path)}
    return found | jax.device_get(moment | metrics)


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def views_and_masks(task, batch) -> dict:
    made = task.objective.make_inputs(batch | sample_keys(task.key, 0, BATCH))
    masks = {
        f"mask/{b}/{n}": getattr(getattr(made, f"{b}_mask"), n)
        for b in ("video", "image")
        for n in ("ids_shuffle", "ids_restore")
    }
    return masks | {"view/video": made.video, "view/image": made.image}


def losses_alone(task, batch) -> np.ndarray:
    """The loss of every clip by itself: what a device with one clip would give if negatives were its own."""
    params, keyed = task.initial_state().params, batch | sample_keys(task.key, 0, BATCH)
    loss = jax.jit(lambda params, one: task.objective(params, one, 0)[0])
    return np.array([loss(params, jax.tree.map(lambda a, row=row: a[row : row + 1], keyed)) for row in range(BATCH)])


if __name__ == "__main__":
    np.savez(sys.argv[1], allow_pickle=False, **arrays())
