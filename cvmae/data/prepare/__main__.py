"""Command `python -m cvmae.data.prepare --dataset=ssv2 --videos=DIR --labels=DIR --out=DIR`; the package's docstring lists
the files that it writes.

Exit codes: 0 done; 1 the disk failed; 2 an error in the command or its input files; 130 interrupted, 143 ended by SIGTERM:
after both, the same command continues the run.
"""

import dataclasses
import signal
import sys

from absl import app, flags

from cvmae.cli import fail, print_help
from cvmae.data.prepare import Options, PrepareError, StopRun, prepare
from cvmae.data.prepare.run import DATASETS, RUNNERS
from cvmae.data.prepare.work import CHECKS

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", None, DATASETS, "Data set. folder: VIDEOS/CLASS/* or VIDEOS/{train,val,test}/CLASS/*, without --labels."
)
flags.DEFINE_string("videos", None, "Folder with the videos; never written to.")
flags.DEFINE_string("labels", "", "Folder with the label files as published; for Kinetics also a single CSV file.")
flags.DEFINE_string("out", None, "Folder to write to; a repeated run continues from its files.")
flags.DEFINE_integer(
    "transcode", 0, "Re-encode to this short side in pixels with frequent keyframes, for fast reading; 0: do not re-encode."
)
flags.DEFINE_enum(
    "check",
    "quick",
    CHECKS,
    "full: decode every frame; quick: the first, middle and last; none: no frame. --transcode decodes all.",
)
flags.DEFINE_bool("pack", False, "Also pack the videos into array_record shards.")
flags.DEFINE_enum("runner", "local", RUNNERS, "local: processes on this machine; beam: Apache Beam.")
flags.DEFINE_string("beam_options", "", "Options of Apache Beam in one string; empty: its local runner.")
flags.DEFINE_integer("workers", 0, "Processes; 0: one per core.")
flags.DEFINE_float("timeout_s", 600.0, "Seconds after which a file counts as failed; 0: no limit.")
flags.DEFINE_float("val_share", 0.1, "For folder without split folders: share of each class's videos that becomes val.")
flags.DEFINE_integer("seed", 0, "For folder without split folders: seed of the draw of val.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error in it ends the program with one line on stderr and exit code 2."""
    print_help(argv, __doc__, __name__)
    try:
        rest = FLAGS(argv)
        for name in ("dataset", "videos", "out"):
            if not FLAGS[name].value:
                raise PrepareError(f"--{name} is missing: {FLAGS[name].help}")
        return rest
    except (flags.Error, PrepareError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Runs `prepare` with the flags, and turns its errors into one line on stderr and an exit code."""
    try:
        if len(argv) > 1:
            raise PrepareError(f"unexpected argument {argv[1]!r}: options start with --")
        values = FLAGS.flag_values_dict()
        prepare(Options(**{field.name: values[field.name] for field in dataclasses.fields(Options)}))
    except PrepareError as error:
        fail(error, 2)
    except (StopRun, OSError) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        sys.exit(130)


def cli() -> None:
    """Runs the command, `cvmae-prepare`."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends processes and removes temporary files
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
