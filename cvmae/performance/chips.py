"""Constants of the chips that a plan is made for, each with where it is from; and topologies of chips, by name.

The table's numbers are what the vendor publishes per chip: "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud TPU
documentation (cloud.google.com/tpu/docs). They are peaks: no program reaches them.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re

import jax

from cvmae.config import ConfigError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      name: as in a topology.
      hbm: bytes of main memory that a program can have, as the TPU's compiler says when it refuses one (libtpu 0.0.42); published are
        32, 16, 95 and 32 GB, of which it keeps a part. 0 is unknown, and then everything fits.
      flops: bfloat16 operations a second; float32 products run at that rate too at JAX's default precision on TPU. 0 is unknown.
      bandwidth: bytes of main memory a second; 0 is unknown.
      links: bytes that a chip sends to its neighbors in a second, all links together, one direction; 0 is unknown.
      clock: cycles a second, for XLA's own cycle counts: peak over the operations of the matrix units in a cycle (128 x 128
        multiply-adds each; v4 and v5p have 8, v5e 4). 0 is unknown: of v6e the published number of units does not give its peak.
      dimensions: of a slice, 2 or 3.
      options: what the compiler has to be told to see one device per chip.
    """

    name: str
    hbm: int
    flops: float
    bandwidth: float
    links: float
    clock: float = 0.0
    dimensions: int = 2
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    "v4": Chip("v4", int(30.75 * GIB), 275e12, 1228e9, 300e9, 1.05e9, 3, (("chip_config_name", "megacore"),)),
    "v5e": Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 200e9, 1.5e9),
    "v5p": Chip("v5p", int(95.74 * GIB), 459e12, 2765e9, 600e9, 1.75e9, 3),
    "v6e": Chip("v6e", int(31.25 * GIB), 918e12, 1640e9, 400e9),
}
EXAMPLES = "v4:2x2x1, v5e:4x4, v5p:2x2x2, v6e:2x4, cpu:8"
# What libtpu asks a TPU machine for, and elsewhere waits for in vain or complains of; several plans may be made at once.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of a kind, `shape` of them along each dimension of a slice, in so many slices."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def count(self) -> int:
        """Chips in all."""
        return self.slices * math.prod(self.shape)

    @property
    def is_cpu(self) -> bool:
        return self.chip.name == "cpu"


def parse_topology(name: str, slices: int = 1) -> Topology:
    """`v5e:4x4` or `cpu:8`. Raises: ConfigError, which names those that are known."""
    kind, _, rest = name.partition(":")
    if kind != "cpu" and kind not in CHIPS:
        known = ", ".join([*CHIPS, "cpu"])
        raise ConfigError(f"--topology={name}: {kind!r} is unknown; known are {known}; write it like {EXAMPLES}")
    chip = CHIPS.get(kind, Chip("cpu", 0, 0.0, 0.0, 0.0, dimensions=1))
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.dimensions - 1), rest):
        form = "x".join("ABC"[: chip.dimensions])
        raise ConfigError(f"--topology={name}: expected {kind}:{form}, the chips along each dimension, such as {EXAMPLES}")
    if kind == "cpu" and slices != 1:
        raise ConfigError(f"--slices={slices} with --topology={name}: only TPUs come in slices")
    return Topology(name, chip, tuple(map(int, rest.split("x"))), slices)


def devices_of(topology: Topology) -> list:
    """Devices to compile for; of TPUs nothing but the compiler is needed.

    For cpu:N the process must not have used jax before, or have N devices already.

    Raises:
      ConfigError: libtpu is missing, the shape is none that it knows, or the process has other devices.
    """
    if topology.is_cpu:
        return _host_devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology.name} needs the TPU compiler: pip install 'crossvideomae[plan]' (libtpu, for any Linux)"
        )
    from jax.experimental import topologies

    for name, value in _WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    host = [min(2, side) for side in topology.shape[:2]]
    options = dict(topology.chip.options) | {"chips_per_host_bounds": (*host, 1)}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology={topology.name}: the TPU compiler knows no such slice ({reason})") from error


def _host_devices(topology: Topology) -> list:
    with contextlib.suppress(RuntimeError):  # JAX is in use already; it may have as many
        jax.config.update("jax_num_cpu_devices", topology.count)
    devices = jax.devices("cpu")
    if len(devices) != topology.count:
        raise ConfigError(
            f"--topology={topology.name}: this process has {len(devices)} CPU devices already; start a new one, "
            f"or set XLA_FLAGS=--xla_force_host_platform_device_count={topology.count} before it"
        )
    return devices
