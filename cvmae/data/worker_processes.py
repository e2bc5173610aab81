"""Worker processes of the loader and the signals that end a run: the run decides when its workers end."""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading

# A terminal's Ctrl-C, `timeout` and Slurm's scancel send these to every process of a run.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_blocked():
    """Blocks SIGNALS in this thread, and so in the worker processes started in the block, until `initialize` ignores them there.

    Other threads of this process still receive them, and Python's handlers run in the main thread after the block.
    """
    # Its start, which the first worker process would cause, unblocks these signals in this thread.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def initialize(index: int, count: int) -> None:
    """Prepares a worker process, as Grain's `worker_init_fn`: it ignores SIGNALS, and ends when its parent process is gone.

    A worker that a signal ended would leave the run waiting for its batch, or fail it, while it saves its state. After a `kill -9`
    of the parent nothing else would end a worker.
    """
    del index, count
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cvmae-end-with-parent").start()
