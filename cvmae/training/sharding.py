"""The mesh, and arrays over it. One program over global arrays; XLA adds the communication."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "model")


def make_mesh(c, devices=None) -> Mesh:
    """The mesh of config.mesh over all devices, or over those that are given, which need not be of this machine.

    Raises:
      ValueError: the sizes do not multiply to the number of devices; the message says what would.
    """
    count, sizes = jax.device_count() if devices is None else len(devices), [c[axis] for axis in AXES]
    for axis in ("fsdp", "model"):
        if c[axis] != 1:
            raise ValueError(f"config.mesh.{axis}={c[axis]}: only the data axis is sharded so far; set config.mesh.{axis}=1")
    if sizes[0] == -1:
        sizes[0] = count
    if sizes[0] != count:
        raise ValueError(f"config.mesh.data={c.data}, but there are {count} devices: set it to {count}, or to -1")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def over_batch(mesh: Mesh) -> NamedSharding:
    """Arrays whose first axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays out of this process's rows of the batch."""
    sharding = over_batch(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def on_own_rows(function, mesh: Mesh):
    """A function of arrays whose first axis is the batch, run by every device on its own rows; nothing passes between devices."""
    rows = PartitionSpec("data")
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)
