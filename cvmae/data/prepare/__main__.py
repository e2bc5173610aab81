"""The command: `python -m cvmae.data.prepare --dataset=ssv2 --videos=DIR --labels=DIR --out=DIR`. The package says what
it writes.

Exit codes: 0 done; 1 the disk failed; 2 the command or what it was given is wrong; 130 interrupted, 143 ended by
SIGTERM, after both of which the same command continues.
"""

import dataclasses
import signal
import sys

from absl import app, flags

from cvmae.cli import fail
from cvmae.data.prepare import Options, PrepareError, StopRun, prepare
from cvmae.data.prepare.run import DATASETS, RUNNERS
from cvmae.data.prepare.work import CHECKS

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "dataset", None, DATASETS, "Which set. folder: VIDEOS/CLASS/* or VIDEOS/{train,val,test}/CLASS/*, without labels."
)
flags.DEFINE_string("videos", None, "Folder with the videos; never written to.")
flags.DEFINE_string("labels", "", "Folder with the label files as published; for Kinetics one CSV file will do.")
flags.DEFINE_string("out", None, "Folder to write to; a rerun goes on from it.")
flags.DEFINE_integer("transcode", 0, "Re-encode to this short side with short groups of pictures, for fast reading; 0: do not.")
flags.DEFINE_enum(
    "check", "quick", CHECKS, "Decode every frame, or the first, middle and last, or none. --transcode decodes all."
)
flags.DEFINE_bool("pack", False, "Also pack the videos into array_record shards.")
flags.DEFINE_enum("runner", "local", RUNNERS, "Processes on this machine, or Apache Beam.")
flags.DEFINE_string("beam_options", "", "Beam's own options in one string; empty: its local runner.")
flags.DEFINE_integer("workers", 0, "Processes; 0: one per core.")
flags.DEFINE_float("timeout_s", 600.0, "A file that takes longer counts as failed; 0: no limit.")
flags.DEFINE_float("val_share", 0.1, "For folder without split folders: the share for val, of the videos of each class.")
flags.DEFINE_integer("seed", 0, "For folder without split folders: of the draw of val.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        rest = FLAGS(argv)
        for name in ("dataset", "videos", "out"):
            if not FLAGS[name].value:
                raise PrepareError(f"--{name} is missing: {FLAGS[name].help}")
        return rest
    except (flags.Error, PrepareError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Hands the flags over."""
    try:
        if len(argv) > 1:
            raise PrepareError(f"unexpected argument {argv[1]!r}: options start with --")
        prepare(Options(**{field.name: FLAGS[field.name].value for field in dataclasses.fields(Options)}))
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
