"""Communication between the processes of one run. All of them run the same program; only process 0 prints and writes, except for Orbax.

Functions that communicate must be called by all processes, in the same order. With one process nothing is communicated.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


@dataclasses.dataclass(frozen=True)
class ProcessShard:
    """The rows of every batch that a process reads: part `index` of `count` equal parts, in the order of the batch."""

    index: int = 0
    count: int = 1

    def of(self, rows):
        """Returns this process's part of a sequence whose length is a multiple of `count`."""
        size = len(rows) // self.count
        return rows[self.index * size : (self.index + 1) * size]


def is_single_process() -> bool:
    """Returns True in a run of one process."""
    return jax.process_count() == 1


def is_main_process() -> bool:
    """Returns True in process 0, which writes and prints."""
    return jax.process_index() == 0


def log_once(*lines: str) -> None:
    """Prints lines on stderr, in process 0 only."""
    if is_main_process() and lines:
        print(*lines, sep="\n", file=sys.stderr)


def shard_of_process(layout: NamedSharding, process: int | None = None) -> ProcessShard:
    """Returns the rows of a batch that a process reads.

    A mesh need not order devices by process, and processes along an axis that does not shard the batch read the same rows.

    Args:
      layout: the sharding of an array whose first axis is the batch.
      process: its index; None is this one.

    Raises:
      ValueError: see `shard_of_ranges`.
    """
    process = jax.process_index() if process is None else process
    slices = layout.devices_indices_map((layout.num_devices,))
    own = [device for device in layout.mesh.devices.flat if device.process_index == process]
    rows = [slices[device][0].indices(layout.num_devices) for device in own]
    return shard_of_ranges([(start, stop) for start, stop, _ in rows], layout.num_devices)


def shard_of_ranges(ranges: list[tuple[int, int]], size: int) -> ProcessShard:
    """Returns the part of `size` rows that the ranges [start, stop) make up together.

    Raises:
      ValueError: they are not one of equal contiguous parts.
    """
    rows = sorted({row for start, stop in ranges for row in range(start, stop)})
    count, rest = divmod(size, len(rows))
    if rest or rows[-1] - rows[0] + 1 != len(rows) or rows[0] % len(rows):
        raise ValueError(
            f"config.mesh scatters the rows that a process reads over the batch (rows {rows} of {size}): choose other sizes of its axes"
        )
    return ProcessShard(rows[0] // len(rows), count)


def to_host(tree):
    """Returns the global arrays of a tree as numpy arrays, all rows of them in every process."""
    return jax.tree.map(_to_numpy, tree)


def _to_numpy(array) -> np.ndarray:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)


def allgather_json(value) -> list:
    """Returns the value of every process, in the order of the processes; any value that JSON can represent."""
    if is_single_process():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [json.loads(bytes(row[:length])) for row, length in zip(texts, lengths)]


def barrier(name: str) -> None:
    """Returns once every process has called `barrier` with this name."""
    if not is_single_process():
        multihost_utils.sync_global_devices(name)
