"""Progress bars on stderr, of the main process only."""

import sys

from tqdm import tqdm

from cvmae.parallel import processes

TERMINAL_S, LOG_S = 0.5, 30.0  # seconds between updates; in a log file each update is a line to read
SHORT_S = 2.0  # evaluations that take no longer show no bar


def training_bar(total: int, step: int) -> tqdm:
    """Returns the bar of a training run of `total` steps that starts at `step`; one that has none left shows nothing."""
    is_off = _is_off() or step >= total
    return tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, mininterval=_interval(), disable=is_off)


def evaluation_bar(total: int, name: str, unit: str = "clip") -> tqdm:
    """Returns a bar for a pass over data that ends by itself; on a terminal it is gone afterwards.

    Args:
      total: number of units in the pass, of this process.
      name: of the pass, before the bar.
      unit: what is counted.
    """
    settings = {"dynamic_ncols": True, "mininterval": _interval(), "delay": SHORT_S, "leave": not sys.stderr.isatty()}
    return tqdm(total=total, desc=name, unit=unit, disable=_is_off(), **settings)


def advance(bar: tqdm, rows: int) -> None:
    """Counts the rows of a batch of `evaluation_bar`'s pass; the last batch may hold more than are left, its padding."""
    bar.update(min(rows, bar.total - bar.n))


def _interval() -> float:
    return TERMINAL_S if sys.stderr.isatty() else LOG_S


def _is_off() -> bool:
    return not processes.is_main_process()
