"""What the processes of one run share. Each runs the same program; process 0 alone prints and writes, Orbax apart.

Whatever communicates here must be called by all processes, in the same order. With one process nothing does.
"""

import json
import sys
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


class ProcessShard(NamedTuple):
    """Which part of every batch a process reads: part `index` of `count` equal ones, in the order of the batch."""

    index: int = 0
    count: int = 1

    def of(self, rows):
        """This process's part of something whose length is a multiple of `count`."""
        size = len(rows) // self.count
        return rows[self.index * size : (self.index + 1) * size]


def is_single_process() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def is_main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def log_once(*lines: str) -> None:
    """Prints lines on stderr, once in a run."""
    if is_main_process() and lines:
        print(*lines, sep="\n", file=sys.stderr)


def shard_of_process(layout: NamedSharding, process: int | None = None) -> ProcessShard:
    """The rows of a batch that a process reads (None: this one), if its first axis is to lie as `layout` says.

    A mesh may order devices otherwise than by process, and processes along another axis than the batch's read the same rows.

    Raises:
      ValueError: see `shard_of_ranges`.
    """
    process = jax.process_index() if process is None else process
    places = layout.devices_indices_map((layout.num_devices,))
    rows = [rows.indices(layout.num_devices) for device, (rows,) in places.items() if device.process_index == process]
    return shard_of_ranges([(start, stop) for start, stop, _ in rows], layout.num_devices)


def shard_of_ranges(stretches: list[tuple[int, int]], size: int) -> ProcessShard:
    """Which of equal parts of `size` rows the stretches [start, stop) make up together.

    Raises:
      ValueError: none: they do not lie together.
    """
    rows = sorted({row for start, stop in stretches for row in range(start, stop)})
    count, rest = divmod(size, len(rows))
    if rest or rows[-1] - rows[0] + 1 != len(rows) or rows[0] % len(rows):
        raise ValueError(
            f"config.mesh scatters what a process reads over the batch (rows {rows} of {size}): order its axes otherwise"
        )
    return ProcessShard(rows[0] // len(rows), count)


def to_host(tree):
    """The global arrays of a tree, whole, as numpy arrays in every process."""
    return jax.tree.map(_whole, tree)


def _whole(array) -> np.ndarray:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)


def allgather_json(value) -> list:
    """What every process has to say, in the order of the processes; anything that JSON knows."""
    if is_single_process():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [json.loads(bytes(row[:length])) for row, length in zip(texts, lengths)]


def barrier(name: str) -> None:
    """Returns once every process has come to this `name`."""
    if not is_single_process():
        multihost_utils.sync_global_devices(name)
