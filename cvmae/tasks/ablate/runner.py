"""Makes the runs of a study, one after another or one of a Slurm array, and the table of those that are finished.

All in this process. A child for each run would survive a crash of the runtime and give its memory back for sure, but the
parent would hold the accelerator that the child needs, and the processes of a pod, which train a run together, would each
start children that do not find one another. So programs and arrays are dropped after every run, an error ends that run
alone, and where the process itself is killed (the host is out of memory, say) the same command resumes; in a Slurm array a
run has a process of its own anyway.
"""

import gc
import os
import traceback
from collections.abc import Callable
from typing import ClassVar

import jax

from cvmae import tasks
from cvmae.config import config_errors
from cvmae.data.sources import make_source
from cvmae.files import StorageError
from cvmae.parallel import processes
from cvmae.report.summary import mean_deviation
from cvmae.tasks.ablate import table
from cvmae.tasks.ablate.study import StudyRun, chosen, runs_of
from cvmae.tasks.results import write_page
from cvmae.training.loop import SHARED_ERRORS
from cvmae.training.preemption import stop_requested
from cvmae.workdir import Workdir


class StudyError(RuntimeError):
    """Runs of a study failed; the message names them. The others were made, and the table is of those."""


class Ablate:
    """A study of ablations: a pre-training run for each variant and seed, and a table of them."""

    trains: ClassVar[bool] = False

    @classmethod
    def run(cls, config, path: str, custom=None, report_page: bool = False) -> dict[str, float]:
        """Makes the runs of the study in the workdir `path`, see `run_study`; their data is that of the config."""
        del custom
        numbers = run_study(config, path)
        write_page(report_page and bool(numbers), Workdir(path))
        return numbers


def run_study(config, workdir: str) -> dict[str, float]:
    """Makes the runs of config.study that are not finished; writes `table.md`, `table.csv` and `table.png` after each of them.

    A run is `WORKDIR/NAME-seedS`, a workdir of pre-training. A finished run is left alone, an unfinished one is resumed, and after a
    signal to stop, which saves first, the same call resumes. With an index, or in a Slurm array, only that one run is made.

    Returns:
      {VARIANT/MEASURE: mean over the seeds that are there}. Empty if a signal asked to stop.

    Raises:
      ConfigError: the study cannot run, or `workdir` is of other configs; nothing is written then.
      StudyError: runs failed.
      StorageError: something cannot be written.
    """
    runs = runs_of(config, workdir)
    own = chosen(runs, config.study.index, os.environ)
    done = processes.allgather_json([run.report is not None for run in own])[0]  # one answer for all processes
    waiting = [run for run, finished in zip(own, done) if not finished]
    open_data(waiting)
    folder = Workdir.create(workdir)
    processes.log_once(f"study {config.study.name}, {len(runs)} runs in {folder}; here {len(own)}, of which {sum(done)} finished")
    folder.write_config(config)

    def write_table() -> str:
        return table.write(config, runs, folder.path) if processes.is_main_process() else ""

    failed: dict[str, str] = {}
    ended, text = make_all(waiting, failed, write_table), write_table()
    if not ended:
        processes.log_once("the study was stopped; the same command resumes it")
        return {}
    print(text, end="")
    if failed:
        reasons = "; ".join(f"{name} ({why})" for name, why in failed.items())
        raise StudyError(f"{len(failed)} of {len(waiting)} runs failed: {reasons}; the same command tries them again")
    values = table.collect(config, runs).values
    return {f"{name}/{measure}": mean_deviation(v)[0] for name, row in values.items() for measure, v in row.items() if v}


def open_data(runs: list[StudyRun]) -> None:
    """Opens what the runs will read, so that what is missing is known before the first. Raises: ConfigError."""
    for data in {run.config.data.to_json_best_effort(): run.config.data for run in runs}.values():
        with config_errors("pretrain.data"):
            for split in (data.split, data.eval_split):
                make_source(data, split)


def make_all(runs: list[StudyRun], failed: dict[str, str], between: Callable) -> bool:
    """Makes runs in turn, calling `between` between them; puts those that fail into `failed`. Returns False where a signal stopped it."""
    with stop_requested() as stop:
        for number, run in enumerate(runs, start=1):
            if number > 1:
                between()
            if processes.is_single_process() and stop(0):  # several processes agree on a step of a run, never between two
                return False
            processes.log_once(f"run {number} of {len(runs)}: {run.name}")
            if not make(run, failed):
                return False
    return True


def make(run: StudyRun, failed: dict[str, str]) -> bool:
    """Makes a run, or puts the reason why it failed into `failed` and the run's folder. Returns False where a signal stopped it."""
    note = run.folder / table.FAILED
    if processes.is_main_process():
        note.unlink(missing_ok=True)
    try:
        return bool(tasks.run(run.config, str(run.folder)))
    except StorageError:
        raise  # the next run cannot be written either
    except Exception as error:
        known = isinstance(error, SHARED_ERRORS)
        if not known:
            if not processes.is_single_process():
                raise  # perhaps the end of another process: the others do not know of it
            traceback.print_exception(error)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        processes.log_once(f"{run.name} failed: {why}")
        if processes.is_main_process():
            run.folder.mkdir(parents=True, exist_ok=True)
            note.write_text(why + "\n", encoding="utf-8")
        failed[run.name] = why
        return True
    finally:
        forget()


def forget() -> None:
    """Drops what a run leaves: programs, which no other run has, and arrays that only cycles of references still hold."""
    jax.clear_caches()
    gc.collect()
