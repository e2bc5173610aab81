"""The memory of one device by what holds it: the state of training, the batch, and the temporaries of the step."""

import dataclasses
import math

import jax

from cvmae.parallel.mesh import batch_sharding
from cvmae.training.optimizer import path_of


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      parameters, optimizer, ema, batch: arguments of the step, from their shapes and shardings.
      other: arguments that are not trained, such as frozen parameters.
      arguments: all of them as XLA lays them out, padding included.
      temporary: activations, gradients and whatever else lives within the step.
      outputs: results that do not reuse the buffer of an argument.
      code: the program.
      sharding_saves: bytes by which optimizer state and EMA are smaller than if they were sharded as the parameters are.
    """

    parameters: int
    optimizer: int
    ema: int
    other: int
    batch: int
    arguments: int
    temporary: int
    outputs: int
    code: int
    sharding_saves: int = 0

    @property
    def total(self) -> int:
        """Bytes that the step needs."""
        return self.arguments + self.temporary + self.outputs + self.code


def on_one_device(tree) -> int:
    """Returns the bytes that one device holds of a tree of `ShapeDtypeStruct` with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in leaves)


def as_parameters(tree, rules):
    """Returns a tree of `ShapeDtypeStruct` of moments or averages, sharded as the parameters whose paths and shapes they have."""

    def move(keys, leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rules.of_parameter(path_of(keys), leaf.shape))

    return jax.tree_util.tree_map_with_path(move, tree)


def memory_of(step, program) -> Memory:
    """Returns the memory of a step.

    Args:
      step: a `TracedStep`.
      program: `jax.stages.Compiled` of it.
    """
    task, analysis = step.task, program.memory_analysis()
    state = task.abstract_state()
    batch = task.abstract_batch(step.config.batch_size, batch_sharding(task.mesh))
    state_parts = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "ema": state.ema,
        "other": (state.step, state.frozen, state.stats),
    }
    averages = (state.opt_state, state.ema)
    return Memory(
        **{name: on_one_device(tree) for name, tree in state_parts.items()},
        batch=on_one_device(batch),
        arguments=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        sharding_saves=on_one_device(as_parameters(averages, task.rules)) - on_one_device(averages),
    )
