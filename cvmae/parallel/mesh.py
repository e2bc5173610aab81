"""The device mesh, and arrays over it. Programs are written for global arrays; XLA adds the communication."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cvmae.parallel import processes
from cvmae.parallel.logical_axes import Rules

AXES = ("data", "fsdp", "model")
BATCH = ("data", "fsdp")  # the batch is sharded over both; parameters over `fsdp` and `model`


def make_mesh(c, devices=None) -> Mesh:
    """Returns the mesh of config.mesh.

    Args:
      c: config.mesh: sizes of AXES, one of which may be -1 to take the devices that the others leave, and `dcn`, the number of slices
        that only a network connects; the batch is sharded over slices too.
      devices: None takes all; they may be absent, as those of a topology are that `cvmae.plan` compiles for.

    Raises:
      ValueError: the sizes do not multiply to the number of devices; the message has sizes that do.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = fill_sizes([c[axis] for axis in AXES], c.dcn, len(devices))
    if c.dcn > 1:
        by_process = not _are_slices(devices, c.dcn)
        grid = mesh_utils.create_hybrid_device_mesh(sizes, (c.dcn, 1, 1), devices, process_is_granule=by_process)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    try:
        mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    except NotImplementedError:  # JAX knows no order of these chips along their links for these sizes
        return _ordered_by_process(sizes, devices)
    return mesh if _reads_contiguous_rows(mesh) else _ordered_by_process(sizes, devices)


def _are_slices(devices, count: int) -> bool:
    """Returns True if the devices have `count` slices, False if they have `count` processes, which then count as slices.

    GPU machines are of the second kind: their devices have no slice index, or all of them the same one.

    Raises:
      ValueError: there are neither `count` slices nor `count` processes.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    hosts = {device.process_index for device in devices}
    if count not in (len(slices), len(hosts)):
        raise ValueError(
            f"config.mesh.dcn={count}: the devices have {len(slices)} slices and {len(hosts)} processes: set it to one of these, or to 1"
        )
    return len(slices) == count


def _reads_contiguous_rows(mesh: Mesh) -> bool:
    """Returns True if each process reads contiguous rows of a batch; a mesh that follows the chips' links may scatter them."""
    try:
        for process in {device.process_index for device in mesh.devices.flat}:
            processes.shard_of_process(batch_sharding(mesh), process)
    except ValueError:
        return False
    return True


def _ordered_by_process(sizes: tuple[int, ...], devices) -> Mesh:
    """Returns a mesh with the devices ordered by process; collectives may be slower than in one that follows the chips' links."""
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def fill_sizes(sizes: list[int], slices: int, devices: int) -> tuple[int, ...]:
    """Returns the sizes of AXES within a slice, -1 replaced. Raises: ValueError, see `make_mesh`."""
    open_axes = [axis for axis, size in zip(AXES, sizes) if size == -1]
    known = int(np.prod([size for size in sizes if size != -1])) * slices
    text = " ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes)) + f" config.mesh.dcn={slices}"
    if len(open_axes) > 1:
        raise ValueError(f"{text}: only one of them can be -1: set config.mesh.{open_axes[1]} to a number")
    if known < 1 or devices % known or (not open_axes and known != devices):
        raise ValueError(
            f"{text} need {max(known, 1)} devices or a multiple, there are {devices}: set config.mesh.data=-1 and the others to divisors"
        )
    return tuple(devices // known if size == -1 else size for size in sizes)


def make_rules(mesh: Mesh, table) -> Rules:
    """Returns the rules of config.sharding.

    Args:
      mesh: the mesh.
      table: {logical axis: axes of the mesh joined by `+`}; '' replicates the logical axis.

    Raises:
      ValueError: the table names an axis that the mesh does not have.
    """
    rules = {name: tuple(filter(None, text.split("+"))) for name, text in table.items()}
    for name, axes in rules.items():
        for axis in axes:
            if axis not in AXES:
                raise ValueError(f"config.sharding.{name}={table[name]!r} names {axis!r}: expected {', '.join(AXES)} joined by +")
    return Rules(mesh, tuple(rules.items()))


def local_mesh() -> Mesh:
    """Returns a mesh of this process's own devices, all on the data axis."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices), 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device has a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns global arrays, made of each process's own rows of the batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def shard_map_rows(function, mesh: Mesh):
    """Returns `function`, of arrays whose first axis is the batch, run by every device on its own rows, without communication."""
    rows = PartitionSpec(BATCH)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices that a batch is computed on, and the rows of it that this process reads.

    Attributes:
      mesh: the mesh; None leaves arrays on the host, for one process with one device.
    """

    mesh: Mesh | None = None

    @functools.cached_property
    def shard(self) -> processes.ProcessShard:
        """The rows of every batch that this process reads. Raises: ValueError, see `processes.shard_of_ranges`."""
        return processes.ProcessShard() if self.mesh is None else processes.shard_of_process(batch_sharding(self.mesh))

    def rules(self, config) -> Rules | None:
        """The rules of config.sharding over the mesh; None without a mesh. Raises: ValueError, see `make_rules`."""
        return None if self.mesh is None else make_rules(self.mesh, config.sharding)

    def put(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array | np.ndarray]:
        """Returns global arrays of a dict of this process's rows; without a mesh the rows themselves."""
        return batch if self.mesh is None else put_batch(batch, self.mesh)

    def gather_rows(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the rows of all processes, in the order of the batch, as numpy arrays in every process."""
        return rows if processes.is_single_process() else processes.to_host(self.put(rows))

    def gather_reports(self, reports: np.ndarray) -> Callable[[], np.ndarray]:
        """Starts to gather the failure reports of all processes; the returned function waits for them.

        Per batch one number is communicated, and the reports only where it is not 0.

        Args:
          reports: uint8 [b, REPORT_BYTES], see `data.bad_files`.
        """
        if processes.is_single_process():
            return lambda: reports
        failed = _sum(self.put({"failed": (reports[:, 0] != 0).astype(np.int32)})["failed"])
        return lambda: self.gather_rows({"failures": reports})["failures"] if int(failed) else reports


@jax.jit
def _sum(rows):
    return rows.sum()


HOST = Placement()  # one process with one device: arrays stay on the host
