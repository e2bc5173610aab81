"""Logical names of the axes of parameters and activations, and the table that maps them to axes of a mesh.

Modules name the axes of their activations (`constrain`), parameters are named by their path (`PARAMETERS`), and `Rules` maps names to
axes of the mesh. Modules take their rules as a static attribute (`TransformerConfig.rules`); without rules nothing is constrained.
"""

import dataclasses
import math
import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

NAMES = ("batch", "tokens", "embed", "heads", "mlp", "patch")

# First match wins; the names are those of the last axes, axes before them (heads of a probe's grid) have none.
PARAMETERS = (
    (r"/attention/(query|key|value)/kernel$", ("embed", "heads")),
    (r"/attention/(query|key|value)/bias$", ("heads",)),
    (r"/lora_a$", ("embed", None)),
    (r"/lora_b$", (None, "heads")),
    (r"/attention/out/kernel$", ("heads", "embed")),
    (r"/mlp_(in|gate)/kernel$", ("embed", "mlp")),
    (r"/mlp_(in|gate)/bias$", ("mlp",)),
    (r"/mlp_out/kernel$", ("mlp", "embed")),
    (r"/predict(_latents)?/kernel$", ("embed", "patch")),
    (r"/embed/kernel$", ("patch", "embed")),
    # Gathered row by row for every sample; sharded rows would have to be brought together first.
    (r"/positions/(table|space|time)$", ("tokens", None)),
    (r"/kernel$", ("embed", "mlp")),
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """A mesh and the axes of it that hold each logical axis. Hashable, so that Flax modules have it as a static attribute.

    Attributes:
      mesh: the mesh.
      table: ((name of NAMES, axes of the mesh), ...); an axis whose name is not there is replicated.
    """

    mesh: Mesh
    table: tuple[tuple[str, tuple[str, ...]], ...]

    def spec(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """Returns the partition of an array of this shape whose last axes have these names.

        An axis that does not divide by the devices that would hold it, and one whose devices hold another axis already, is replicated.
        """
        names = (None,) * (len(shape) - len(names)) + tuple(names)
        table: dict[str | None, tuple[str, ...]] = dict(self.table)
        used: set[str] = set()
        partition: list[tuple[str, ...] | None] = []
        for name, length in zip(names, shape, strict=True):
            axes = tuple(axis for axis in table.get(name, ()) if self.mesh.shape[axis] > 1 and axis not in used)
            if not axes or length % math.prod(self.mesh.shape[axis] for axis in axes):
                partition.append(None)
                continue
            used.update(axes)
            partition.append(axes)
        return PartitionSpec(*partition)

    def sharding(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        """Returns `spec` over the mesh."""
        return NamedSharding(self.mesh, self.spec(names, shape))

    def of_parameter(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """Returns the sharding of a parameter, or of an array of its shape whose path ends like its own (moments, averages)."""
        names = next((names for pattern, names in PARAMETERS if re.search(pattern, path)), ())
        return self.sharding(names if len(names) <= len(shape) else (), shape)


def target_device(rules: Rules | None) -> jax.Device:
    """Returns a device of the kind that a program is compiled for: of the mesh of `rules`, without rules JAX's default.

    The devices of a mesh may be absent, as those of a topology are that `cvmae.plan` compiles for.
    """
    return jax.devices()[0] if rules is None else rules.mesh.devices.flat[0]


def shard_map_local(function, rules: Rules | None, names: tuple[str | None, ...], *arrays):
    """Runs `function` on each device's shard of arrays whose last axes have these names; without rules on the arrays as they are.

    For programs that XLA cannot partition by itself. Axes without a name are replicated, and nothing passes between devices.
    """
    if rules is None:
        return function(*arrays)
    specs = tuple(rules.spec(names, array.shape) for array in arrays)
    return jax.shard_map(function, mesh=rules.mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def constrain(x, rules: Rules | None, *names: str | None):
    """Returns x, sharded by the names of its last axes; without rules x itself.

    Raises:
      ValueError: a name is not in NAMES.
    """
    for name in names:
        if name is not None and name not in NAMES:
            raise ValueError(f"axis {name!r} has no rule; expected one of {', '.join(NAMES)}")
    return x if rules is None else jax.lax.with_sharding_constraint(x, rules.sharding(names, x.shape))
