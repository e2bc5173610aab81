"""What the processes of one run share. Each runs the same program; process 0 alone prints and writes, Orbax apart.

Whatever communicates here must be called by all processes, in the same order. With one process nothing does.
"""

import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


class Share(NamedTuple):
    """Which part of every batch a process reads: part `index` of `count` equal ones, in the order of the batch."""

    index: int = 0
    count: int = 1

    def of(self, rows):
        """This process's part of something whose length is a multiple of `count`."""
        size = len(rows) // self.count
        return rows[self.index * size : (self.index + 1) * size]


def alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def say(*lines: str) -> None:
    """Prints lines on stderr, once in a run."""
    if first() and lines:
        print(*lines, sep="\n", file=sys.stderr)


def share_of(layout: NamedSharding, process: int | None = None) -> Share:
    """The rows of a batch that a process reads (None: this one), if its first axis is to lie as `layout` says.

    A mesh may order devices otherwise than by process, and processes along another axis than the batch's read the same rows.

    Raises:
      ValueError: see `part_of`.
    """
    process = jax.process_index() if process is None else process
    places = layout.devices_indices_map((layout.num_devices,))
    rows = [rows.indices(layout.num_devices) for device, (rows,) in places.items() if device.process_index == process]
    return part_of([(start, stop) for start, stop, _ in rows], layout.num_devices)


def part_of(stretches: list[tuple[int, int]], size: int) -> Share:
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
    return Share(rows[0] // len(rows), count)


def everywhere(tree):
    """The global arrays of a tree, whole, as numpy arrays in every process."""
    return jax.tree.map(_whole, tree)


def _whole(array) -> np.ndarray:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)


def gathered(rows: dict[str, np.ndarray], put: Callable) -> dict[str, np.ndarray]:
    """The rows that every process read of a batch, in the order of the batch.

    Args:
      rows: arrays of this process's rows.
      put: makes global arrays of them.
    """
    return rows if alone() else everywhere(put(rows))


@jax.jit
def _count(rows):
    return rows.sum()


def reports_of_all(reports: np.ndarray, put: Callable) -> Callable[[], np.ndarray]:
    """Starts to find out whose rows failed; returns a function that waits, and gives the failure reports of all processes.

    One number travels for every batch, and the reports only where it is not 0.

    Args:
      reports: uint8 [b, REPORT_BYTES], see `data.bad_files`.
      put: makes global arrays of a dict of this process's rows.
    """
    if alone():
        return lambda: reports
    failed = _count(put({"failed": (reports[:, 0] != 0).astype(np.int32)})["failed"])
    return lambda: gathered({"failures": reports}, put)["failures"] if int(failed) else reports


def values_of_all(value) -> list:
    """What every process has to say, in the order of the processes; anything that JSON knows."""
    if alone():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [json.loads(bytes(row[:length])) for row, length in zip(texts, lengths)]


def wait_for_all(name: str) -> None:
    """Returns once every process has come to this `name`."""
    if not alone():
        multihost_utils.sync_global_devices(name)
