"""AdamW with the rules of MAE: weight decay of matrices alone, the learning rate's scaling and schedule, layer decay, clipping."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cvmae.config import require, steps
from cvmae.models.trained_part import layer_of

# First match wins; every parameter must match one. MAE and VideoMAE decay matrices only.
DECAY_RULES = (
    (r"/(bias|scale)$", False),
    (r"/positions/(table|space|time|cls)$", False),
    (r"/(cls|registers|mask_token|query)$", False),
    (r"/kernel$", True),
    (r"/lora_[ab]$", True),  # matrices too, as in loralib and peft
)


SCHEDULES = ("cosine", "constant", "wsd")
COOLDOWN_SHAPES = ("linear", "1-sqrt")


def path_of(keys) -> str:
    """Returns the path of a parameter as text, `/video/encoder/embed/kernel`."""
    return "/" + jax.tree_util.keystr(keys, simple=True, separator="/")


def decay_mask(params):
    """Returns a tree of booleans, True where weight decay applies.

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
    """Returns base · batch / 256, where the batch is the global number of clips of an update (MAE's rule)."""
    return base * batch_size / 256


def make_schedule(c, batch_size: int, warmup: int, total: int, cooldown: int = 0) -> optax.Schedule:
    """Returns an optax schedule: linear warm-up from 0 to the peak, then one of SCHEDULES.

    `cosine` is half a cosine from the peak to `min_lr` (absolute, not scaled). `constant` stays at the peak. `wsd` (MiniCPM, arXiv
    2404.06395) stays there until the cooldown, which reaches `min_lr` at the end of the run.

    Args:
      c: config.optimizer; configs of earlier versions lack `schedule`, which is cosine then.
      batch_size: global, all micro-batches of an update together.
      warmup: steps.
      total: steps of the run.
      cooldown: steps, of wsd.

    Raises:
      ConfigError: min_lr is above the peak; wsd without a cooldown, or one that does not fit into the run beside the warm-up.
    """
    peak, kind = peak_learning_rate(c.base_lr, batch_size), c.get("schedule", "cosine")
    warm, stable = optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)
    if kind == "constant":
        # Not optax.warmup_constant_schedule, which stays at 0 without a warm-up.
        return optax.join_schedules([warm, stable], [warmup])
    require(
        c.min_lr <= max(c.base_lr, peak),
        f"config.optimizer.min_lr={c.min_lr} is above the rate that it ends, config.optimizer.base_lr={c.base_lr}: lower it",
    )
    if kind == "cosine" or not total:  # a run of 0 steps only tests
        # optax wants the decay to end after the warm-up even where a run is all warm-up.
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(total, warmup + 1), c.min_lr)
    require(
        cooldown > 0,
        f"config.optimizer.cooldown={c.cooldown!r} with schedule='wsd' never cools down: give 1_steps or more, or take constant",
    )
    require(
        warmup + cooldown <= total,
        f"config.optimizer.warmup={c.warmup} and cooldown={c.cooldown} are {warmup} + {cooldown} steps, more than the {total} of the run: "
        "shorten one of them, or raise config.total",
    )
    return optax.join_schedules(
        [warm, stable, make_cooldown(c.cooldown_shape, peak, c.min_lr, cooldown)], [warmup, total - cooldown]
    )


def make_cooldown(shape: str, start: float, end: float, length: int) -> optax.Schedule:
    """Returns a schedule that falls from `start` to `end` in `length` steps, by one of COOLDOWN_SHAPES.

    `1-sqrt` is that of Hägele et al. (arXiv 2405.18392): it falls fast at first, by the square root of the fraction that is done.
    """
    if shape == "linear":
        return optax.linear_schedule(start, end, length)
    return lambda step: end + (start - end) * (1 - jnp.sqrt(jnp.clip(step / length, 0, 1)))


def resolve_schedule(config, total: int, steps_per_epoch: float) -> optax.Schedule:
    """Returns the schedule of a config for a run of `total` steps. Raises: ConfigError, see `make_schedule`."""
    c = config.optimizer
    warmup, cooldown = (
        steps(c.get(name, "0_steps"), f"optimizer.{name}", steps_per_epoch=steps_per_epoch, total=total)
        for name in ("warmup", "cooldown")
    )
    return make_schedule(c, config.batch_size, warmup, total, cooldown)


def describe(c, batch_size: int) -> str:
    """Formats the peak learning rate, its formula and its schedule as a line to print."""
    peak, kind = peak_learning_rate(c.base_lr, batch_size), c.get("schedule", "cosine")
    then = {"cosine": f"half a cosine to {c.min_lr:g}", "constant": "constant"}.get(kind)
    if then is None:
        then = f"constant, cooldown {c.cooldown} ({c.cooldown_shape}) to {c.min_lr:g}"
    return f"learning rate {peak:.3g} = base_lr {c.base_lr:g} x batch {batch_size} / 256, warm-up {c.warmup}, then {then}"


def scale_by_layer(decay: float, depth: int, temporal: int = 0) -> optax.GradientTransformation:
    """Multiplies the update of every parameter of layer i, weight decay included, by decay^(depth + 1 - i); see `layer_of`."""

    def scale(keys, update):
        return update * decay ** (depth + 1 - layer_of(path_of(keys), depth, temporal))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(
    c, schedule, frozen: Callable[[str], bool] | None = None, depth: int = 0, temporal: int = 0
) -> optax.GradientTransformation:
    """Returns AdamW with gradient clipping.

    Args:
      c: config.optimizer; its `layer_decay`, which fine-tuning has, lowers the learning rate towards the first layers.
      schedule: step -> learning rate.
      frozen: returns True for the path of a parameter (see `path_of`) that never changes: no update, no decay, no moments; None
        freezes none.
      depth: blocks of the encoder, for the layer decay.
      temporal: number of them that are temporal, the last ones of a factorized encoder.
    """
    adamw = optax.adamw(schedule, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decay_mask)
    if c.get("layer_decay", 1.0) != 1.0:
        adamw = optax.chain(adamw, scale_by_layer(c.layer_decay, depth, temporal))
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda k, _: "frozen" if frozen and frozen(path_of(k)) else "trained", params)

    return optax.multi_transform({"trained": optax.chain(clip, adamw), "frozen": optax.set_to_zero()}, labels)
