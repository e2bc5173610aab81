"""Run by test_devices in a process with some number of devices: steps of fine-tuning and of a probe, views, and tests, as npz."""

import sys

import jax
import numpy as np

from cvmae.data.clip_views import TestViews
from cvmae.data.sources import make_source
from tests.tiny_configs import downstream, labeled_batch, make_task


def arrays() -> dict[str, np.ndarray]:
    # SGD in all but name: Adam would make whole steps of what is zero but for rounding.
    optimizer = {"optimizer__eps": 1e3, "optimizer__ema_decay": 0.5, "optimizer_sharding": "data"}
    c = downstream("finetune", augment__rand_augment__layers=1, augment__flip=0.5, data__synthetic__clips=11, **optimizer)
    task = make_task(c)
    batch, state = labeled_batch(c), task.initial_state()
    state = state.replace(params=jax.tree.map(lambda a: a + 0.01, state.params))
    clips, labels, _ = jax.jit(lambda b: task.views(task.samples(b, 0)))(task.placement.put(batch))
    found = {"view/clips": clips, "view/labels": labels}
    tested = task.test(state, make_source(c.data, "val"), TestViews(2, 3))
    found |= {"test/probabilities": tested.probabilities, "test/labels": tested.labels, "test/readable": tested.readable}
    new, metrics = task.step(state, batch)
    found |= {"gradient" + jax.tree_util.keystr(path): leaf for path, leaf in moments(new.opt_state)}
    return (
        jax.device_get(found | {name: metrics[name] for name in ("loss", "accuracy/top1", "optimizer/grad_norm")})
        | read_together()
    )


def read_together() -> dict[str, np.ndarray]:
    """Of an attentive probe that reads two clips of a video together: views, the loss of a step, and a test."""
    grid = {"probe__rates": (1e-2,), "probe__weight_decays": (0.1,), "probe__blocks": 1}
    c = downstream("attentive", probe__clips=2, augment__flip=0.5, data__synthetic__clips=11, **grid)
    task = make_task(c)
    batch, state = labeled_batch(c), task.initial_state()
    clips, _, _ = jax.jit(lambda b: task.views(task.samples(b, 0)))(task.placement.put(batch))
    tested = task.test(state, make_source(c.data, "val"), TestViews(2, 3))
    _, metrics = task.step(state, batch)
    found = {"clips": clips, "probabilities": tested.probabilities, "loss": metrics["loss"]}
    return {f"together/{name}": array for name, array in jax.device_get(found).items()}


def moments(opt_state):
    return [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state) if ".mu" in jax.tree_util.keystr(path)]


if __name__ == "__main__":
    np.savez(sys.argv[1], allow_pickle=False, **arrays())
