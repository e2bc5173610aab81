"""Signals and the end of worker processes: a run, not a signal to all of its processes, decides when its workers end."""

import contextlib
import multiprocessing
import os
import signal
import threading


@contextlib.contextmanager
def signals_blocked():
    """Blocks SIGINT and SIGTERM in this thread, and for good in processes that it starts in the block.

    A terminal's Ctrl-C, `timeout` and Slurm's scancel send them to every process of a run. It is for the caller to react, and to
    end the workers: one that a signal ended would leave a run without its batch while it saves its state. Other threads of this
    process still receive them, and Python's handlers run in the main thread after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_with_parent(index: int, count: int) -> None:
    """Ends a worker process when its parent process is gone, which after a `kill -9` of the parent nothing else would do.

    Args:
      index, count: of the workers, which Grain passes to its `worker_init_fn`; not used.
    """
    del index, count
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cvmae-end-with-parent").start()
