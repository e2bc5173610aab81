"""Logical names of the axes of parameters and activations, and where a mesh holds them: the one place that knows both.

Modules name what an axis is (`constrain`), parameters are named by their path (`PARAMETERS`), and a table of rules maps names to axes
of the mesh. Without `use_rules` around it nothing is constrained, so that modules run anywhere as they are.
"""

import contextlib
import contextvars
import dataclasses
import math
import re
from collections.abc import Mapping

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

NAMES = ("batch", "tokens", "embed", "heads", "mlp", "patch")

# First match wins; the names are those of the last axes, axes before them (heads of a probe's grid) have none.
PARAMETERS = (
    (r"/attention/(query|key|value)/kernel$", ("embed", "heads")),
    (r"/attention/(query|key|value)/bias$", ("heads",)),
    (r"/attention/out/kernel$", ("heads", "embed")),
    (r"/mlp_in/kernel$", ("embed", "mlp")),
    (r"/mlp_in/bias$", ("mlp",)),
    (r"/mlp_out/kernel$", ("mlp", "embed")),
    (r"/predict/kernel$", ("embed", "patch")),
    (r"/embed/kernel$", ("patch", "embed")),
    # Gathered row by row for every sample; spread over devices the rows would have to be brought together first.
    (r"/positions/(table|space|time)$", ("tokens", None)),
    (r"/kernel$", ("embed", "mlp")),
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """A mesh and what of it holds which logical axis.

    Attributes:
      mesh: the mesh.
      table: {name of NAMES: axes of the mesh}; a name that is not there is held whole by every device.
    """

    mesh: Mesh
    table: Mapping[str, tuple[str, ...]]

    def spec(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of an array of this shape whose last axes have these names.

        An axis that does not divide by the devices that would hold it, and one whose devices hold another axis already, stays whole.
        """
        names = (None,) * (len(shape) - len(names)) + tuple(names)
        used, parts = set(), []
        for name, length in zip(names, shape, strict=True):
            wanted = tuple(axis for axis in self.table.get(name, ()) if self.mesh.shape[axis] > 1 and axis not in used)
            if not wanted or length % math.prod(self.mesh.shape[axis] for axis in wanted):
                parts.append(None)
                continue
            used.update(wanted)
            parts.append(wanted)
        return PartitionSpec(*parts)

    def sharding(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        """See `spec`."""
        return NamedSharding(self.mesh, self.spec(names, shape))

    def of_parameter(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a parameter, or of anything of its shape at a path that ends like its own (moments, averages)."""
        names = next((names for pattern, names in PARAMETERS if re.search(pattern, path)), ())
        return self.sharding(names if len(names) <= len(shape) else (), shape)


_active: contextvars.ContextVar[Rules | None] = contextvars.ContextVar("rules", default=None)


@contextlib.contextmanager
def use_rules(rules: Rules):
    """While this is open, modules that are traced lay their activations out by these rules."""
    token = _active.set(rules)
    try:
        yield
    finally:
        _active.reset(token)


def device():
    """A device that the program being traced is for: of the mesh, where rules are open, else of JAX's default backend."""
    rules = _active.get()
    return jax.devices()[0] if rules is None else rules.mesh.devices.flat[0]


def is_layout_known() -> bool:
    """Whether it is known how arrays lie over devices: rules are open, or there is one device."""
    return _active.get() is not None or jax.device_count() == 1


def shard_map_local(function, names: tuple[str | None, ...], *arrays):
    """`function` of arrays whose last axes have these names, run by every device on its own part; as it is where no rules are open.

    For what XLA cannot spread by itself. Axes without a name are whole in every part, and nothing passes between devices.
    """
    rules = _active.get()
    if rules is None:
        return function(*arrays)
    specs = tuple(rules.spec(names, array.shape) for array in arrays)
    return jax.shard_map(function, mesh=rules.mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def constrain(x, *names: str | None):
    """x, laid out over the mesh by the names of its last axes; x itself where no rules are open.

    Raises:
      ValueError: a name is none of NAMES.
    """
    for name in names:
        if name is not None and name not in NAMES:
            raise ValueError(f"axis {name!r} has no rule; expected one of {', '.join(NAMES)}")
    rules = _active.get()
    return x if rules is None else jax.lax.with_sharding_constraint(x, rules.sharding(names, x.shape))
