"""Where the memory of one device goes: what the step carries, and what it needs meanwhile."""

import dataclasses
import math

import jax

from cvmae.parallel.mesh import batch_sharding


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      parameters, optimizer, ema, other, batch: of the step's arguments, from their shapes and shardings; `other` is what does
        not train.
      arguments: what XLA lays out for all of them, padding included.
      temporary: activations, gradients and whatever else lives within the step.
      outputs: results that do not take the place of an argument.
      code: the program.
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

    @property
    def total(self) -> int:
        return self.arguments + self.temporary + self.outputs + self.code


def on_one_device(tree) -> int:
    """Bytes that one device holds of a tree of `ShapeDtypeStruct` with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in leaves)


def memory_of(step, compiled) -> Memory:
    """The memory of a compiled `step.Step`."""
    task, analysis = step.task, compiled.memory_analysis()
    state = task.abstract_state()
    batch = task.abstract_batch(step.config.batch_size, batch_sharding(task.mesh))
    held = {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "ema": state.ema,
        "other": (state.step, state.frozen, state.stats),
    }
    return Memory(
        **{name: on_one_device(tree) for name, tree in held.items()},
        batch=on_one_device(batch),
        arguments=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )
