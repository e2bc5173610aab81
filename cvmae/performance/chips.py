"""Constants of the chips that `cvmae.plan` compiles for, with their sources, and topologies of chips by name.

The numbers of the table are the vendor's, per chip: "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of the Cloud TPU
documentation (cloud.google.com/tpu/docs); those of GPUs are in `gpus.py`. They are peaks, which no program reaches.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re

from cvmae.config import ConfigError
from cvmae.performance.gpus import GPU, GPUS, MEMORY_FRACTION, target_config

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
      dimensions: of a slice, 2 or 3; 1 for GPUs, which are numbered.
      options: of the compiler, so that a chip is one device.
      float32: operations per second of float32 products at `Precision.HIGHEST`; 0 where cycle counts have them.
      gpu: what the GPU's compiler asks for; None for other chips.
    """

    name: str
    hbm: int
    flops: float
    bandwidth: float
    links: float
    clock: float = 0.0
    dimensions: int = 2
    options: tuple[tuple[str, str], ...] = ()
    float32: float = 0.0
    gpu: GPU | None = None

    @classmethod
    def of_gpu(cls, name: str, gpu: GPU) -> "Chip":
        """Returns the chip of a GPU, with the memory that JAX takes of it."""
        hbm = int(gpu.memory * MEMORY_FRACTION)
        return cls(name, hbm, gpu.flops, gpu.bandwidth, gpu.links, dimensions=1, float32=gpu.float32, gpu=gpu)


CHIPS = {
    "v4": Chip("v4", int(30.75 * GIB), 275e12, 1228e9, 300e9, 1.05e9, 3, (("chip_config_name", "megacore"),)),
    "v5e": Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 200e9, 1.5e9),
    "v5p": Chip("v5p", int(95.74 * GIB), 459e12, 2765e9, 600e9, 1.75e9, 3),
    "v6e": Chip("v6e", int(31.25 * GIB), 918e12, 1640e9, 400e9),
    **{name: Chip.of_gpu(name, gpu) for name, gpu in GPUS.items()},
}
EXAMPLES = "v4:2x2x1, v5e:4x4, v5p:2x2x2, v6e:2x4, h100:8, cpu:8"
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
    """Slices of TPU chips, or hosts with GPUs.

    Attributes:
      name: as in --topology, `v5e:4x4` or `h100:8`.
      chip: the kind of chip.
      shape: chips along each dimension of a slice; the GPUs of a host.
      slices: the number of slices, or of hosts with GPUs.
      memory_given: True where --hbm_gib gave the memory of the chip, `chip.hbm`.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1
    memory_given: bool = False

    @property
    def count(self) -> int:
        """The number of chips in all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def is_cpu(self) -> bool:
        """True for cpu:N."""
        return self.chip.name == "cpu"


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Parses `v5e:4x4`, `h100:8` or `cpu:8`. Raises: ConfigError, which names the known chips."""
    chip_name, _, rest = name.partition(":")
    if chip_name != "cpu" and chip_name not in CHIPS:
        known = [*CHIPS, "cpu"]
        hint = f" (did you mean {chip_name.lower()!r}?)" if chip_name.lower() in known else ""
        raise ConfigError(
            f"--topology={name}: {chip_name!r} is unknown{hint}; known are {', '.join(known)}; write it like {EXAMPLES}"
        )
    chip = CHIPS.get(chip_name, Chip("cpu", 0, 0.0, 0.0, 0.0, dimensions=1))
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (chip.dimensions - 1), rest):
        raise ConfigError(f"--topology={name}: expected {_form(chip)}")
    if chip.name == "cpu" and slices != 1:
        raise ConfigError(f"--slices={slices} with --topology={name}: only TPUs come in slices, and GPUs in hosts")
    return Topology(name, chip, tuple(map(int, rest.split("x"))), slices)


def _form(chip: Chip) -> str:
    """Returns how a topology of a chip is written, with an example."""
    example = next(example for example in EXAMPLES.split(", ") if example.count("x") == chip.dimensions - 1)
    if chip.dimensions > 1:
        sides = "x".join("ABC"[: chip.dimensions])
        return f"{chip.name}:{sides}, the chips along each dimension, each 1 or more, such as {chip.name}:{example.partition(':')[2]}"
    counted = "GPUs of a host" if chip.gpu else "devices"
    return f"{chip.name}:N with N the number of {counted}, 1 or more, such as {chip.name}:{example.partition(':')[2]}"


def devices_of(topology: Topology) -> list:
    """Returns devices to compile for. TPUs need their compiler, libtpu, and no TPU; GPUs theirs, of jax[cuda13], and no driver.

    For cpu:N the process must not have used JAX before, or have N devices already.

    Raises:
      ConfigError: the compiler is missing or does not know the shape, or the process has another number of CPU devices.
    """
    if topology.is_cpu:
        return _host_devices(topology)
    return _gpu_devices(topology) if topology.chip.gpu else _tpu_devices(topology)


def _tpu_devices(topology: Topology) -> list:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology.name} needs the TPU compiler: pip install 'crossvideomae[plan]' (libtpu, for any Linux)"
        )
    import jax
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


def _gpu_devices(topology: Topology) -> list:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise ConfigError(
            f"--topology={topology.name} needs the GPU's compiler: pip install 'crossvideomae[plan-gpu]' (2 GB, for Linux, without a GPU), "
            "or 'crossvideomae[gpu-compiler]' (0.15 GB) for --config.attention=xla alone"
        )
    from jax.experimental import topologies

    assert topology.chip.gpu is not None
    shape = f"{topology.slices}x1x{topology.count // topology.slices}"  # hosts x processes of each x GPUs of each process
    return list(topologies.get_topology_desc("", "cuda", target_config=target_config(topology.chip.gpu), topology=shape).devices)


def _host_devices(topology: Topology) -> list:
    import jax

    with contextlib.suppress(RuntimeError):  # JAX is in use already, perhaps with as many
        jax.config.update("jax_num_cpu_devices", topology.count)
    devices = jax.devices("cpu")
    if len(devices) != topology.count:
        raise ConfigError(
            f"--topology={topology.name}: this process has {len(devices)} CPU devices already; start a new one, "
            f"or set XLA_FLAGS=--xla_force_host_platform_device_count={topology.count} before it"
        )
    return devices
