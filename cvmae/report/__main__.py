"""Command: an HTML report of one run, or of several side by side.

    python -m cvmae.report WORKDIR [WORKDIR ...] [--out=FILE.html]

It reads the workdirs of finished or unfinished runs and writes one HTML file that needs no network.
Exit codes: 0 success, with the path of the file on stdout; 1 a file could not be written; 2 a wrong command line, a folder
that is not a workdir, or a bucket without credentials.
"""

from absl import app, flags

from cvmae.cli import fail, parse_own
from cvmae.config import ConfigError
from cvmae.report.gather import NoWorkdirError
from cvmae.report.page import write_page

FLAGS = flags.FlagValues()  # its own, so that other commands in the same process may have flags of the same names
flags.DEFINE_string("out", "", "File to write; empty: report.html in the first workdir.", flag_values=FLAGS)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error ends the process with one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__, writes=("out",))
        if len(rest) < 2:
            raise ValueError("no workdir is given: python -m cvmae.report WORKDIR [WORKDIR ...]")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Reads the workdirs, writes the page and prints its path."""
    try:
        out = write_page(argv[1:], FLAGS.out)
    except (NoWorkdirError, ConfigError) as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    print(f"report: {out}")


def cli() -> None:
    """Runs the command, `cvmae-report`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
