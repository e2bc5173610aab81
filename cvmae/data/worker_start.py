"""The start of the loader's worker processes, in which signals are heard."""

import multiprocessing
import multiprocessing.resource_tracker
import queue
import sys
import threading

import grain

from cvmae.data.worker_processes import signals_blocked


class Started:
    """An iterator of Grain whose worker processes start with the first item; signals are heard while that is waited for.

    Args:
      iterator: of Grain, before its first item.
    """

    def __init__(self, iterator: grain.DatasetIterator):
        self._iterator = iterator
        self._first: threading.Thread | None = None  # reads the first item
        self._others: set[multiprocessing.process.BaseProcess] = set()

    def __next__(self):
        return next(self._iterator) if self._first else self._start()

    def _start(self):
        """Returns the first item. Raises: what the iterator raises, and what a signal's handler raises meanwhile."""
        answer: queue.SimpleQueue = queue.SimpleQueue()

        def read() -> None:
            with signals_blocked():  # in this thread alone, from which the workers have it
                try:
                    answer.put((next(self._iterator), None))
                except BaseException as error:
                    answer.put((None, error))

        self._others = set(multiprocessing.active_children())
        _start_tracker()
        self._first = threading.Thread(target=read, name="cvmae-first-item", daemon=True)
        self._first.start()
        item, error = answer.get()
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Ends the iterator and its workers; kills them where the wait for the first item was given up, which may never come."""
        while self._first and self._first.is_alive():
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
            self._first.join(0.1)
        self._iterator.close()


def _start_tracker() -> None:
    """Starts the process that frees memory which workers share, should this one end at once; it then has nothing to say of that."""
    # The first worker would start it too, and that unblocks the signals in its thread.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()
