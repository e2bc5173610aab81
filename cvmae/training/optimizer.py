"""AdamW with the rules of MAE: which parameters decay, the learning rate's scaling, warm-up and cosine, clipping."""

import re

import jax
import optax

# First match wins; every parameter must match one. MAE and VideoMAE decay matrices only.
DECAY_RULES = (
    (r"/(bias|scale)$", False),
    (r"/positions/(table|space|time|cls)$", False),
    (r"/(cls|mask_token)$", False),
    (r"/kernel$", True),
)


def path_of(keys) -> str:
    """The path of a parameter as text, `/video/encoder/embed/kernel`."""
    return "".join(f"/{getattr(key, 'key', key)}" for key in keys)


def decay_mask(params):
    """A tree of booleans, True where weight decay applies.

    Raises:
      ValueError: a parameter that no rule of DECAY_RULES covers.
    """

    def decays(keys, _):
        path = path_of(keys)
        for pattern, decay in DECAY_RULES:
            if re.search(pattern, path):
                return decay
        raise ValueError(f"no weight decay rule covers the parameter {path}: add one to DECAY_RULES")

    return jax.tree_util.tree_map_with_path(decays, params)


def peak_learning_rate(base: float, batch_size: int) -> float:
    """base · batch / 256, the batch being the global number of clips of an update (the rule of MAE)."""
    return base * batch_size / 256


def learning_rate(c, batch_size: int, warmup: int, total: int):
    """Linear warm-up from 0, then half a cosine to `min_lr` (absolute, not scaled): a schedule of optax.

    Args:
      c: config.optimizer.
      batch_size: global, with every accumulated part counted.
      warmup: steps.
      total: steps of the run.
    """
    peak = peak_learning_rate(c.base_lr, batch_size)
    # optax wants the decay to end after the warm-up even where a run is all warm-up.
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(total, warmup + 1), c.min_lr)


def make_optimizer(c, schedule, frozen=lambda path: False) -> optax.GradientTransformation:
    """The optimizer.

    Args:
      c: config.optimizer.
      schedule: step -> learning rate.
      frozen: which parameters (by path, see `path_of`) never change: no update, no decay, no moments.
    """
    adamw = optax.adamw(schedule, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decay_mask)
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda k, _: "frozen" if frozen(path_of(k)) else "trained", params)

    return optax.multi_transform({"trained": optax.chain(clip, adamw), "frozen": optax.set_to_zero()}, labels)
