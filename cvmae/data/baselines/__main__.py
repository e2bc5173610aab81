"""Command that measures simple baselines on a manifest of short clips, which have equal numbers of frames.

    python -m cvmae.data.baselines --manifest=metaworld/task.csv --test_splits=val,test,test_unseen

Exit codes: 0 done, with the accuracies on stdout; 1 a video cannot be read; 2 an error in the command or the manifest.
"""

import sys

from absl import app, flags

from cvmae.cli import fail, parse_own
from cvmae.data import baselines
from cvmae.data.decode import DecodeError

FLAGS = flags.FlagValues()  # not the global flags, so that commands with the same names can be imported in one process
flags.DEFINE_string("manifest", "", "CSV with the columns path, label and split.", flag_values=FLAGS)
flags.DEFINE_string("split", "train", "Split to fit on.", flag_values=FLAGS)
flags.DEFINE_list("test_splits", ["test"], "Splits to score on.", flag_values=FLAGS)
flags.DEFINE_list(
    "features",
    ["first frame", "middle frame", "order-free", "frame-shuffled", "ordered frame difference", "ordered frames"],
    f"Features to measure, of: {', '.join(baselines.FEATURES)}.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("side", 16, "Side of the frames that features are made of, pixels.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("seeds", 1, "Fits of each baseline, on different training clips.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("clips", 0, "Training clips of a fit; 0 = all of them, in one fit.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float("tolerance", 1e-3, "Of the fits; smaller is slower and changes little.", lower_bound=0.0, flag_values=FLAGS)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error in it ends the program with one line on stderr and exit code 2."""
    try:
        rest = parse_own(argv, FLAGS, __doc__, reads=("manifest",))
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}: options start with --")
        if not FLAGS.manifest:
            raise ValueError("--manifest is missing: give a CSV with the columns path, label and split")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Runs the command, and turns its errors into one line on stderr and an exit code."""
    splits = {"split": FLAGS.split, "test_splits": FLAGS.test_splits}
    try:
        numbers = FLAGS.manifest, FLAGS.seeds, FLAGS.clips
        print(baselines.table(*numbers, **splits, names=FLAGS.features, side=FLAGS.side, tolerance=FLAGS.tolerance))
    except (ValueError, FileNotFoundError) as error:
        fail(error, 2)
    except (OSError, DecodeError) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: nothing is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
