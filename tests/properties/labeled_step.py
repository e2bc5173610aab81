"""Run by test_devices in a process with some number of devices: a step of fine-tuning, its views, and a test, as npz."""

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
    return jax.device_get(found | {name: metrics[name] for name in ("loss", "accuracy/top1", "optimizer/grad_norm")})


def moments(opt_state):
    return [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state) if ".mu" in jax.tree_util.keystr(path)]


if __name__ == "__main__":
    np.savez(sys.argv[1], allow_pickle=False, **arrays())
