"""AdamW with the rules of MAE: weight decay of matrices alone, the learning rate's scaling, warm-up, cosine, layer decay, clipping."""

import re
from collections.abc import Callable

import jax
import optax

# First match wins; every parameter must match one. MAE and VideoMAE decay matrices only.
DECAY_RULES = (
    (r"/(bias|scale)$", False),
    (r"/positions/(table|space|time|cls)$", False),
    (r"/(cls|mask_token|query)$", False),
    (r"/kernel$", True),
)


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


def make_schedule(c, batch_size: int, warmup: int, total: int):
    """Returns an optax schedule: linear warm-up from 0, then half a cosine to `min_lr` (absolute, not scaled).

    Args:
      c: config.optimizer.
      batch_size: global, all micro-batches of an update together.
      warmup: steps.
      total: steps of the run.
    """
    peak = peak_learning_rate(c.base_lr, batch_size)
    # optax wants the decay to end after the warm-up even where a run is all warm-up.
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(total, warmup + 1), c.min_lr)


def describe(c, batch_size: int) -> str:
    """Formats the peak learning rate and its formula as a line to print."""
    peak = peak_learning_rate(c.base_lr, batch_size)
    return f"learning rate {peak:.3g} = base_lr {c.base_lr:g} x batch {batch_size} / 256, warm-up {c.warmup}"


def layer_of(path: str, depth: int) -> int:
    """Returns the layer of a classifier's parameter, as MAE and VideoMAE number them.

    0 is the embedding with its positions and cls token, i + 1 is block i, depth + 1 everything after the blocks.
    """
    block = re.match(r"/encoder/blocks/block(\d+)/", path)
    if block:
        return int(block[1]) + 1
    return 0 if re.match(r"/encoder/(embed|positions|cls)(/|$)", path) else depth + 1


def scale_by_layer(decay: float, depth: int) -> optax.GradientTransformation:
    """Multiplies the update of every parameter of layer i, weight decay included, by decay^(depth + 1 - i)."""

    def scale(keys, update):
        return update * decay ** (depth + 1 - layer_of(path_of(keys), depth))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(c, schedule, frozen: Callable[[str], bool] | None = None, depth: int = 0) -> optax.GradientTransformation:
    """Returns AdamW with gradient clipping.

    Args:
      c: config.optimizer; its `layer_decay`, which fine-tuning has, lowers the learning rate towards the first layers.
      schedule: step -> learning rate.
      frozen: returns True for the path of a parameter (see `path_of`) that never changes: no update, no decay, no moments; None
        freezes none.
      depth: blocks of the encoder, for the layer decay.
    """
    adamw = optax.adamw(schedule, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decay_mask)
    if c.get("layer_decay", 1.0) != 1.0:
        adamw = optax.chain(adamw, scale_by_layer(c.layer_decay, depth))
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()

    def labels(params):
        return jax.tree_util.tree_map_with_path(lambda k, _: "frozen" if frozen and frozen(path_of(k)) else "trained", params)

    return optax.multi_transform({"trained": optax.chain(clip, adamw), "frozen": optax.set_to_zero()}, labels)
