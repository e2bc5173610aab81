"""The numbers of `data.workers` and `data.threads` that a run takes where its config says `auto`."""

import os
import socket

import jax
import numpy as np

from cvmae.data import auto_workers
from cvmae.data.pipeline import clip_spec
from cvmae.data.records import Source
from cvmae.data.worker_pool import available_cores
from cvmae.parallel import processes


def resolve_workers(config, source: Source):
    """Returns the config with numbers for data.workers and data.threads, and lines that say them; the config itself without `auto`.

    Several processes of a run on one machine divide what they may use of it.

    Args:
      config: of the run.
      source: its clips, of which a few are read.
    """
    if not auto_workers.is_auto(config.data):
        return config, []
    reading, host = auto_workers.measure(config, source), this_host()
    data = config.data
    clips = -(-config.batch_size // jax.process_count())
    size = clips * clip_spec(config, for_views=True).length * int(np.prod(data.frame_size)) * 3
    workers, threads = auto_workers.choose(data, reading, host, size)
    changed = config.copy_and_resolve_references()
    with changed.ignore_type():
        changed.data.workers, changed.data.threads = workers, threads
    beside = "" if host.accelerated else ", on which the step computes too"
    line = (
        f"input: config.data.workers={workers} config.data.threads={threads}, from {host.cores} core(s){beside}, and {reading.clips} clips read: "
        f"{1000 * reading.cpu:.3g} ms of a core and {1000 * reading.waiting:.3g} ms of waiting each"
    )
    return changed.lock(), [line]


def this_host() -> auto_workers.Host:
    """Returns what this process may use of its machine."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    everyone = processes.allgather_json([socket.gethostname(), own])
    here = [set(cores) for name, cores in everyone if name == socket.gethostname()]
    cores = max(1, min(available_cores(), len(set().union(*here)) // len(here)))
    return auto_workers.Host(cores, auto_workers.free_memory() // len(here), jax.default_backend() != "cpu")
