"""The mesh, and arrays over it. One program over global arrays; XLA adds the communication."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cvmae.parallel import processes
from cvmae.parallel.logical_axes import Rules

AXES = ("data", "fsdp", "model")
BATCH = ("data", "fsdp")  # clips are spread over both; parameters over `fsdp` and `model`


def make_mesh(c, devices=None) -> Mesh:
    """The mesh of config.mesh.

    Args:
      c: config.mesh: sizes of AXES, one of which may be -1 to take what the others leave, and `dcn`, the number of slices that only
        a network connects; clips are spread over slices too.
      devices: None takes all; they need not be of this machine.

    Raises:
      ValueError: the sizes do not multiply to the number of devices; the message says what would.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = fill_sizes([c[axis] for axis in AXES], c.dcn, len(devices))
    if c.dcn > 1:
        by_process = not _are_slices(devices, c.dcn)
        grid = mesh_utils.create_hybrid_device_mesh(sizes, (c.dcn, 1, 1), devices, process_is_granule=by_process)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    try:
        mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    except NotImplementedError:  # no order of these chips by their links is known for these sizes
        return _in_order_of_processes(sizes, devices)
    return mesh if _read_together(mesh) else _in_order_of_processes(sizes, devices)


def _are_slices(devices, count: int) -> bool:
    """Whether devices number `count` slices; else each process is one, as GPU machines are, which number none or one.

    Raises:
      ValueError: there are as many neither of slices nor of processes.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    processes = {device.process_index for device in devices}
    if count not in (len(slices), len(processes)):
        raise ValueError(
            f"config.mesh.dcn={count}: the devices are {len(slices)} slices of {len(processes)} processes: set it to one of these, or to 1"
        )
    return len(slices) == count


def _read_together(mesh: Mesh) -> bool:
    """Whether the rows of a batch that each process reads lie together, which an order by the chips' links may scatter."""
    try:
        for process in {device.process_index for device in mesh.devices.flat}:
            processes.shard_of_process(batch_sharding(mesh), process)
    except ValueError:
        return False
    return True


def _in_order_of_processes(sizes: tuple[int, ...], devices) -> Mesh:
    """A mesh whose devices lie process by process; collectives may take longer ways than in one that knows the chips' links."""
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def fill_sizes(sizes: list[int], slices: int, devices: int) -> tuple[int, ...]:
    """The sizes of AXES within a slice, -1 filled up. Raises: ValueError, see `make_mesh`."""
    open_axes = [axis for axis, size in zip(AXES, sizes) if size == -1]
    known = int(np.prod([size for size in sizes if size != -1])) * slices
    text = " ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes)) + f" config.mesh.dcn={slices}"
    if len(open_axes) > 1:
        raise ValueError(f"{text}: only one of them can take what is left: set config.mesh.{open_axes[1]} to a number")
    if known < 1 or devices % known or (not open_axes and known != devices):
        raise ValueError(
            f"{text} need {max(known, 1)} devices or a multiple, there are {devices}: set config.mesh.data=-1 and others to divisors"
        )
    return tuple(devices // known if size == -1 else size for size in sizes)


def make_rules(mesh: Mesh, table) -> Rules:
    """The rules of config.sharding, whose values are axes of the mesh joined by `+`; empty holds an axis whole.

    Raises:
      ValueError: an axis that the mesh does not have.
    """
    rules = {name: tuple(filter(None, text.split("+"))) for name, text in table.items()}
    for name, wanted in rules.items():
        for axis in wanted:
            if axis not in AXES:
                raise ValueError(f"config.sharding.{name}={table[name]!r} names {axis!r}: expected {', '.join(AXES)} joined by +")
    return Rules(mesh, tuple(rules.items()))


def local_mesh() -> Mesh:
    """A mesh of this process's devices alone, all on the data axis."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices), 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays whose first axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays out of this process's rows of the batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def shard_map_rows(function, mesh: Mesh):
    """A function of arrays whose first axis is the batch, run by every device on its own rows; nothing passes between devices."""
    rows = PartitionSpec(BATCH)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the rows of a batch are read and computed: the process's own rows on the host, and global arrays over a mesh.

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

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array | np.ndarray]:
        """Global arrays of a dict of this process's rows."""
        return batch if self.mesh is None else put_batch(batch, self.mesh)

    def gather_rows(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows that every process read of a batch, in the order of the batch, on the host of each."""
        return rows if processes.is_single_process() else processes.to_host(self.put(rows))

    def gather_reports(self, reports: np.ndarray) -> Callable[[], np.ndarray]:
        """Starts to gather the failure reports of all processes; the function that it returns waits for them.

        One number travels for every batch, and the reports only where it is not 0.

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


HOST = Placement()  # one process, one device: arrays stay as they are
