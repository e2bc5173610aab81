"""Runs the task of a config: pre-training, fine-tuning, probes, features, pictures, ablations.

    python -m cvmae.main --config=configs/ssv2.py:variant=B/16 --workdir=DIR [--config.data.workers=4 ...]

A run has one process, or one per machine or accelerator. TPU VMs, Slurm, Open MPI and Kubernetes need only this command in every
process; elsewhere, add --coordinator=HOST:PORT --processes=N --process=I.

Exit codes: 0 done, or stopped by a signal with the state saved; 1 the run failed; 2 the command or config is wrong; 130 stopped by a
second Ctrl-C; 134 JAX ended this process because another process of the run is gone; 143 ended by SIGTERM where nothing trains, and the
same command continues from the files that are there.
"""

import pathlib
import re
import signal
import sys
import traceback

from absl import app, flags, logging

import cvmae.cli
from cvmae.cli import FLAGS, config_path, fail, print_config, print_help, refuse_arguments
from cvmae.cli import parse as cli_parse
from cvmae.config import ConfigError
from cvmae.parallel import signals
from cvmae.tasks import TASKS

flags.adopt_module_key_flags(cvmae.cli)
flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; a rerun resumes from it. Default: workdir/NAME-OF-THE-CONFIG."
)
flags.DEFINE_bool("print_config", False, "Print the resolved config with the comment of each field, and stop.")
flags.DEFINE_bool("report", True, "Write report.html into the workdir at the end.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no launcher tells JAX about the processes.")
flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.")
flags.DEFINE_integer("process", None, "With --coordinator: index of this process, from 0.")
flags.DEFINE_float("connect_s", 300.0, "Seconds to wait for all processes to connect.", lower_bound=1)
flags.DEFINE_float(
    "heartbeat_s", 100.0, "Seconds without a heartbeat after which a process is taken for gone and the others end.", lower_bound=1
)


ABOUT = f"""{__doc__}
Tasks, `--config=configs/NAME.py:task=TASK`: {", ".join(task for task in TASKS if task != "ablate")}; studies: `--config=configs/ablate.py:study=NAME`.
Fields of a config: --print_config prints them with their comments; --config.FIELD=VALUE sets one.
"""


def parse(argv: list[str]) -> list[str]:
    """Parses the command line."""
    print_help(argv, ABOUT, __name__)
    return cli_parse(argv)


def default_workdir(config: str) -> str:
    """Returns `workdir/ssv2-variant=L_16` for the config `configs/ssv2.py:variant=L/16`."""
    file, _, arg = config.partition(":")
    name = "-".join(filter(None, [pathlib.Path(file).stem, re.sub(r"[^\w=.-]+", "_", arg)]))
    return str(pathlib.Path("workdir") / name)


def main(argv: list[str]) -> None:
    """Connects to the other processes of the run, if there are any, and runs the task."""
    refuse_arguments(argv)
    if FLAGS.print_config:
        print_config(FLAGS.config)
        return
    logging.set_verbosity(logging.WARNING)  # jax and orbax log a lot at INFO
    from cvmae.parallel import launch

    try:
        launch.initialize(
            FLAGS.coordinator, FLAGS.processes, FLAGS.process, connect_s=FLAGS.connect_s, heartbeat_s=FLAGS.heartbeat_s
        )
        launch.check_devices()
    except (ConfigError, launch.ConnectError) as error:
        fail(error, 2 if isinstance(error, ConfigError) else 1)
    run_task()


def run_task() -> None:
    """Runs the task and ends the process with one line if it fails; with several processes, the others then end too."""
    from cvmae.data.bad_files import BadDataError
    from cvmae.files import StorageError
    from cvmae.parallel import launch
    from cvmae.parallel.processes import log_once
    from cvmae.storage.client import UnavailableError
    from cvmae.tasks import run
    from cvmae.tasks.ablate.runner import StudyError
    from cvmae.tasks.ending import ending
    from cvmae.training.metric_writer import NonFiniteError
    from cvmae.training.preemption import INTERRUPTED, TERMINATED

    try:
        workdir = FLAGS.workdir or default_workdir(config_path())
        numbers = run(FLAGS.config, workdir, report_page=FLAGS.report)
        if numbers:
            log_once(*ending(FLAGS.config, config_path(), workdir, sys.argv))
        launch.shutdown()
    except ConfigError as error:
        fail(error, 2, launch.process_name(), launch.leave)
    except (BadDataError, NonFiniteError, StudyError) as error:
        fail(error, 1, launch.process_name(), launch.leave)
    except (StorageError, UnavailableError) as error:
        # Orbax's threads may wait for minutes for files of a checkpoint that a bucket refused, and Python's end for them.
        fail(error, 1, launch.process_name(), launch.leave if launch.is_multi_process() else signals.leave_now)
    except KeyboardInterrupt:
        fail(
            "interrupted; the same command resumes from the newest checkpoint, or from the start",
            INTERRUPTED,
            launch.process_name(),
            signals.leave_now,
        )
    except SystemExit as error:
        if error.code != TERMINATED:
            raise
        fail("ended by SIGTERM; the same command continues from what is written", TERMINATED)
    except BaseException as error:
        if not launch.is_multi_process():
            raise
        traceback.print_exception(error)
        fail(launch.explain(error), 1, launch.process_name(), launch.leave)


def cli() -> None:
    """Runs the command, `cvmae`."""
    signals.repeat_lost_signals()
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:  # before the task has begun, which answers it itself
        fail("interrupted; nothing had begun", 128 + signal.SIGINT, leave=signals.leave_now)


if __name__ == "__main__":
    cli()
