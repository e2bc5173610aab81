"""The optimizer's state and the moving average (EMA), sharded over the data axis of the mesh (ZeRO, stage 1, arXiv 1910.02054).

Every device has the same parameters, but keeps only its part of what the update alone reads: XLA then reduce-scatters gradients instead of
all-reducing them, each device updates its part, and the new parameters are gathered. That sends the same number of bytes.
"""

import dataclasses
import math

import jax
from jax.sharding import NamedSharding, PartitionSpec

from cvmae.parallel.logical_axes import Rules

MODES = ("auto", "replicated", "data")  # of config.optimizer_sharding
# Of an array that `auto` shards, 256 KiB in float32: biases and norms save nothing, and each is one more collective.
MIN_ENTRIES = 2**16
AXIS = "data"


@dataclasses.dataclass(frozen=True)
class StateSharding:
    """The shardings of moments and averages, which have the shapes and paths of parameters.

    Attributes:
      rules: of the parameters.
      mode: `replicated` shards them as the parameters; `data` over the data axis too, where an axis divides by it; `auto` only
        arrays of MIN_ENTRIES and more.
      stacked: leading axes that are never sharded, such as the heads of a probe's grid, which a step takes one by one.
    """

    rules: Rules
    mode: str = "auto"
    stacked: int = 0

    @property
    def is_active(self) -> bool:
        """Returns True if arrays may be sharded otherwise than their parameters: by the mode, over a data axis of several devices."""
        return self.mode != "replicated" and self.rules.mesh.shape[AXIS] > 1

    def of_leaf(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Returns the sharding of an array of the state: that of its parameter, with the data axis on the first axis that can take it.

        An array that already lies over the data axis, and one without an axis that is free and divides by it, stays as its parameter.
        """
        own, devices = self.rules.of_parameter(path, shape), self.rules.mesh.shape[AXIS]
        small = self.mode == "auto" and math.prod(shape) < MIN_ENTRIES
        if not self.is_active or small or any(AXIS in (axes or ()) for axes in own.spec):
            return own
        for axis in range(self.stacked, len(shape)):
            if own.spec[axis] is None and shape[axis] and shape[axis] % devices == 0:
                return NamedSharding(own.mesh, PartitionSpec(*own.spec[:axis], AXIS, *own.spec[axis + 1 :]))
        return own

    def constrain(self, path: str, array: jax.Array) -> jax.Array:
        """Returns a parameter or its gradient, in a compiled step, sharded as its moments; itself where these lie as the parameter."""
        sharding = self.of_leaf(path, array.shape)
        if sharding == self.rules.of_parameter(path, array.shape):
            return array  # without a constraint, so that the program on one device is the one without this module
        return jax.lax.with_sharding_constraint(self.as_parameter(path, array), sharding)

    def as_parameter(self, path: str, array: jax.Array) -> jax.Array:
        """Returns a parameter or its gradient, in a compiled step, sharded as the parameter; itself where nothing is sharded otherwise.

        Without it XLA carries the sharding of the moments back through the gradient into the activations, and moves those.
        """
        if not self.is_active:
            return array
        return jax.lax.with_sharding_constraint(array, self.rules.of_parameter(path, array.shape))
