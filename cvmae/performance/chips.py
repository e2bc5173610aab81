"""Constants of the chips that `cvmae.plan` compiles for, with their sources, and topologies of chips by name.

The numbers of the table are the vendor's, per chip: "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud TPU
documentation (cloud.google.com/tpu/docs). They are peaks, which no program reaches.
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
    """A kind of device.

    Attributes:
      name: as in a topology.
      hbm: bytes of main memory that a program can use, from the TPU compiler's error about one that does not fit (libtpu 0.0.42).
        The published 32, 16, 95 and 32 GB include a part that is reserved. 0 is unknown, and then everything fits.
      flops: bfloat16 operations per second; at JAX's default precision on TPU, float32 products run as fast. 0 is unknown.
      bandwidth: bytes of main memory per second; 0 is unknown.
      links: bytes that a chip sends to its neighbors per second, over all links, in one direction; 0 is unknown.
      clock: cycles per second, for XLA's cycle counts: the peak over the operations per cycle of the matrix units (128 x 128
        multiply-adds each; 8 of them in v4 and v5p, 4 in v5e). 0 is unknown: v6e's published units do not give its peak.
      dimensions: of a slice, 2 or 3.
      options: of the compiler, so that a chip is one device.
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
# Without these, libtpu waits for, or complains about, the metadata of a TPU machine, and refuses to run in two processes at once.
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
    """Slices of chips.

    Attributes:
      name: as in --topology, `v5e:4x4`.
      chip: the kind of chip.
      shape: chips along each dimension of a slice.
      slices: the number of slices.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def count(self) -> int:
        """The number of chips in all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def is_cpu(self) -> bool:
        """True for cpu:N."""
        return self.chip.name == "cpu"


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Parses `v5e:4x4` or `cpu:8`. Raises: ConfigError, which names the known chips."""
    chip_name, _, rest = name.partition(":")
    if chip_name != "cpu" and chip_name not in CHIPS:
        known = ", ".join([*CHIPS, "cpu"])
        raise ConfigError(f"--topology={name}: {chip_name!r} is unknown; known are {known}; write it like {EXAMPLES}")
    chip = CHIPS.get(chip_name, Chip("cpu", 0, 0.0, 0.0, 0.0, dimensions=1))
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.dimensions - 1), rest):
        form = "x".join("ABC"[: chip.dimensions])
        raise ConfigError(f"--topology={name}: expected {chip_name}:{form}, the chips along each dimension, such as {EXAMPLES}")
    if chip.name == "cpu" and slices != 1:
        raise ConfigError(f"--slices={slices} with --topology={name}: only TPUs come in slices")
    return Topology(name, chip, tuple(map(int, rest.split("x"))), slices)


def devices_of(topology: Topology) -> list:
    """Returns devices to compile for. TPUs need their compiler, libtpu, and no TPU.

    For cpu:N the process must not have used JAX before, or have N devices already.

    Raises:
      ConfigError: libtpu is missing or does not know the shape, or the process has another number of CPU devices.
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
    options: dict[str, str | int | tuple[int, ...]] = {**dict(topology.chip.options), "chips_per_host_bounds": (*host, 1)}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology={topology.name}: the TPU compiler knows no such slice ({reason})") from error


def _host_devices(topology: Topology) -> list:
    with contextlib.suppress(RuntimeError):  # JAX is in use already, perhaps with as many
        jax.config.update("jax_num_cpu_devices", topology.count)
    devices = jax.devices("cpu")
    if len(devices) != topology.count:
        raise ConfigError(
            f"--topology={topology.name}: this process has {len(devices)} CPU devices already; start a new one, "
            f"or set XLA_FLAGS=--xla_force_host_platform_device_count={topology.count} before it"
        )
    return devices
