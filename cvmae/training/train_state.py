"""The training state, and the update that every task shares: accumulated gradients, optimizer, moving average."""

from collections.abc import Callable
from typing import Any

import einops
import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """The state of a run between two steps.

    Attributes:
      step: int32, updates done.
      params: float32 parameters.
      opt_state: the optimizer's state, optax's.
      ema: moving average of the parameters, or None where the config has none.
      frozen: parameters that are used and never change: the encoder under a probe, and what fine-tuning leaves as it is.
      stats: running statistics of a probe's batch norm.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any = None
    frozen: Any = None
    stats: Any = None

    @property
    def evaluated(self):
        """The parameters that evaluation uses: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def create_state(params, optimizer, ema_decay: float, frozen=None) -> TrainState:
    """Returns the state before the first step."""
    ema = jax.tree.map(jnp.copy, params) if ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema, frozen)


def apply_gradients(state: TrainState, gradients, optimizer, ema_decay: float, shard: Callable[[Any], Any] | None = None):
    """Applies an update of the optimizer; returns (new state, {gradient norm, parameter norm}).

    Args:
      state: before the update.
      gradients: float32, of the shapes of the parameters, sharded by `shard`, see `accumulate_gradients`.
      optimizer: optax's.
      ema_decay: of the moving average, in 0..1; 0 where the state has none.
      shard: constrains a tree of the parameters' shapes to the shardings of their moments, so that each device updates its part;
        None where moments lie as parameters.
    """
    before = state.params if shard is None else shard(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, before)
    params = optax.apply_updates(before, updates)
    ema = state.ema
    if ema_decay:
        ema = optax.incremental_update(params, ema, 1 - ema_decay)
    norms = {"optimizer/grad_norm": optax.tree.norm(gradients), "optimizer/param_norm": optax.tree.norm(params)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), norms


def accumulate_gradients(loss, params, samples, num_microbatches: int, shard: Callable[[Any], Any] | None = None):
    """Returns gradients and metrics of `loss(params, samples) -> (scalar, metrics)`, averaged over micro-batches of the batch.

    Memory falls with the number of micro-batches. A micro-batch takes every `num_microbatches`-th sample, so that a batch sharded
    over devices stays in place. A loss that is a mean over samples comes out the same; NT-Xent has the rows of a micro-batch only
    as negatives.

    Args:
      loss: the function.
      params: the tree to differentiate by.
      samples: a tree of arrays whose first axis is the batch, a multiple of `num_microbatches`.
      num_microbatches: at least 1.
      shard: constrains the gradients of each micro-batch to the shardings of their moments; None leaves them to XLA.
    """

    def differentiate(params, samples):
        gradients, metrics = jax.grad(loss, has_aux=True)(params, samples)
        return gradients if shard is None else shard(gradients), metrics

    if num_microbatches == 1:
        return differentiate(params, samples)
    split = jax.tree.map(lambda a: einops.rearrange(a, "(b n) ... -> n b ...", n=num_microbatches), samples)

    def add(total, micro_batch):
        return jax.tree.map(jnp.add, total, differentiate(params, micro_batch)), None

    first = jax.tree.map(lambda a: a[0], split)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(differentiate, params, first))
    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda a: a / num_microbatches, total)


def replace_params(tree: dict, loaded: dict) -> dict:
    """Returns the tree with those of its leaves that `loaded` has too taken from there, each on the devices of its own leaf."""
    new = {
        key: replace_params(value, loaded[key]) if isinstance(value, dict) else jax.device_put(loaded[key], value.sharding)
        for key, value in tree.items()
        if key in loaded
    }
    return tree | new
