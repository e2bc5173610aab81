"""Configs that compile in seconds, and batches for them, for tests of the objective, the tasks and the loop."""

import pathlib

import jax
import numpy as np

from cvmae import config as config_lib
from cvmae import objective
from cvmae.data.pipeline import clip_spec
from cvmae.data.sources import make_source
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel.mesh import make_mesh
from cvmae.tasks import find_task
from cvmae.tasks.model_fields import fill_encoder_fields
from cvmae.training.run_schedule import Schedule

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
TERMS = tuple(term.name for term in objective.TERMS)

# One loss term and no pictures compile faster. Overrides for `commands.arguments`, in tests that are not about the loss.
PLAIN = {f"loss__{term}": 0.0 for term in TERMS if term != "mse_video"} | {"report__pictures": 0}


def config(only=TERMS, **overrides):
    """Returns `configs/ssv2.py:runlocal` with the weights of all loss terms except `only` at 0; `a__b=v` sets a field."""
    c = config_lib.load(f"{CONFIGS / 'ssv2.py'}:runlocal", {k.replace("__", "."): v for k, v in overrides.items()})
    for term in TERMS:
        if term not in only:
            c.loss[term] = 0.0
    return c


def samples(c, batch=4, seed=0):
    """Returns a batch of random clips with the random key of each sample."""
    draw = np.random.default_rng(seed)
    shape = (batch, c.data.num_frames + c.augment.get("plus_shift", 0), *c.data.frame_size, 3)
    video = draw.integers(0, 256, shape, dtype=np.uint8)
    frames = draw.integers(0, c.data.num_frames, (batch, c.image_branch.frames), dtype=np.int32)
    return {"video": video, "frame_index": np.sort(frames, axis=1)} | sample_keys(jax.random.key(seed), 0, batch)


def downstream(task, name="ssv2", **overrides):
    """Returns `configs/NAME.py:task=TASK,runlocal` with the encoder of `untrained`, whatever it starts from; `a__b=v` sets a field."""
    fields = {k.replace("__", "."): v for k, v in overrides.items()}
    c = config_lib.load(f"{CONFIGS / name}.py:task={task},runlocal", fields)
    if task == "pretrain":
        return c
    start, c.init_from = c.init_from, config_lib.UNTRAINED
    c, _ = fill_encoder_fields(c)
    c.init_from = start
    return c


def make_task(c, total=8, mesh=None):
    """Returns the task of a config for `total` training steps, with 8 steps per epoch, on all devices or on `mesh`."""
    source = make_source(c.data, c.data.split)
    return find_task(c.task)(c, mesh or make_mesh(c.mesh), Schedule(total, steps_per_epoch=8.0), source)


def labeled_batch(c, clips=None, seed=0):
    """Returns a batch of random clips with labels, as the loader yields it."""
    draw, count = np.random.default_rng(seed), clips or c.batch_size
    video = draw.integers(0, 256, (count, clip_spec(c).length, *c.data.frame_size, 3), dtype=np.uint8)
    return {"video": video, "label": np.arange(count, dtype=np.int32) % c.data.synthetic.classes}
