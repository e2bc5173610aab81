"""The iterator over batches, with the threads and worker processes that read them ahead."""

import gc

import grain
import numpy as np
from absl import flags

from cvmae.data.worker_processes import end_with_parent
from cvmae.data.worker_start import Started
from cvmae.storage import counters


class Loader:
    """Iterator over the batches of a Grain dataset; close() ends its threads and worker processes.

    Args:
      batches: to read.
      data: config.data.
      workers: processes that read; None takes data.workers.

    Attributes:
      counts: what reading the batches that were drawn has cost, float64 [len(counters.FIELDS)].
    """

    def __init__(self, batches: grain.MapDataset, data, workers: int | None = None):
        # Grain's workers read absl flags, which are not parsed in a library or a notebook.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Grain's defaults would hold 500 batches in memory in every process.
        ahead = max(data.prefetch, data.threads) if data.threads else 0
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=ahead))
        workers = data.workers if workers is None else workers
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, data.prefetch))
            dataset = dataset.mp_prefetch(options, worker_init_fn=end_with_parent)
        self._has_workers = workers > 0
        self._iterator = Started(iter(dataset)) if self._has_workers else iter(dataset)
        self.counts = np.zeros(len(counters.FIELDS))

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._iterator)
        if counters.KEY in batch:  # of training clips; no part of what is learned from
            self.counts = self.counts + batch.pop(counters.KEY).sum(0)
        return batch

    def close(self):
        """Ends the loader; it cannot be used afterwards."""
        self._iterator.close()
        if self._has_workers:
            # JAX may compute on the workers' shared memory itself, and lets go of it in threads of its own; only Python's collector then frees
            # it. At the exit of the process that would be too late, and Python warns of leaked memory.
            gc.collect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
