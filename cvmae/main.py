"""The command: `python -m cvmae.main --config=configs/ssv2.py:variant=B/16 --workdir=DIR [--config.data.workers=4 ...]`.

Exit codes: 0 done, or stopped by a signal with the state saved; 1 the run failed; 2 the command or config is wrong.
"""

import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from cvmae.config import ConfigError, check_key, load

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Config file, with its argument after a colon.", lock_config=True)
flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; a rerun goes on from it. Default: workdir/NAME-OF-THE-CONFIG."
)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        check_overrides(argv)
        rest = FLAGS(argv)
        if FLAGS.config is None:
            raise ConfigError("--config is missing: python -m cvmae.main --config=configs/demo.py")
        return rest
    except (flags.Error, ConfigError, TypeError, ValueError, OSError) as error:
        fail(error, 2)


def check_overrides(argv: list[str]) -> None:
    """Names the nearest field where a `--config.a.b=` names none; absl's own error names no field."""
    words = [word.lstrip("-") for word in argv[1:]]
    pairs = zip(words, [*words[1:], ""])  # `--config=FILE` and `--config FILE` are both said
    files = [
        after if word == "config" else word.removeprefix("config=") for word, after in pairs if re.match("config(=|$)", word)
    ]
    if files:
        config = load(files[-1])
        for word in words:
            key = word.partition("=")[0]
            if key.startswith(("config.", "noconfig.")):
                check_key(config, key.partition(".")[2])


def default_workdir(config: str) -> str:
    """`workdir/ssv2-variant=L_16` for the config `configs/ssv2.py:variant=L/16`."""
    file, _, arg = config.partition(":")
    name = "-".join(filter(None, [pathlib.Path(file).stem, re.sub(r"[^\w=.-]+", "_", arg)]))
    return str(pathlib.Path("workdir") / name)


def fail(error: Exception, code: int) -> None:
    """Ends the program with one line on stderr."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def main(argv: list[str]) -> None:
    """Hands the config over to its task."""
    if len(argv) > 1:
        fail(ConfigError(f"unexpected argument {argv[1]!r}: options start with --"), 2)
    logging.set_verbosity(logging.WARNING)  # jax and orbax say a lot at the level of information
    from cvmae.data.bad_files import BadDataError
    from cvmae.run import run
    from cvmae.training.metrics import NonFiniteError

    try:
        run(FLAGS.config, FLAGS.workdir or default_workdir(FLAGS["config"].config_filename))
    except ConfigError as error:
        fail(error, 2)
    except (BadDataError, NonFiniteError) as error:
        fail(error, 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
