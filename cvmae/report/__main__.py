"""The command: one page about one run, or about several side by side.

    python -m cvmae.report WORKDIR [WORKDIR ...] [--out=FILE.html]

It reads what runs leave in their workdirs, finished or not, and writes one HTML file that opens from disk, without a network.
Exit codes: 0 done, with the file's path on stdout; 1 the disk failed; 2 the command is wrong or a folder is no workdir.
"""

from absl import app, flags

from cvmae.cli import fail, parse_own
from cvmae.report.gather import NoWorkdirError
from cvmae.report.page import write_page

FLAGS = flags.FlagValues()  # of this command alone, so that other commands' may have the same names in one process
flags.DEFINE_string("out", "", "File to write; empty: report.html in the first workdir.", flag_values=FLAGS)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__)
        if len(rest) < 2:
            raise ValueError("no workdir is given: python -m cvmae.report WORKDIR [WORKDIR ...]")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Reads the workdirs, writes the page, prints where it is."""
    try:
        out = write_page(argv[1:], FLAGS.out)
    except NoWorkdirError as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    print(f"report: {out}")


def cli() -> None:
    """Runs the command, `cvmae-report`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
