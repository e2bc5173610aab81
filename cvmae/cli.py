"""What all commands share, those that take no config too: flags of their own, and one line for what is wrong."""

import re
import sys

from absl import flags
from ml_collections import config_flags

from cvmae.config import ConfigError, check_key, load


def parse_own(argv: list[str], known: flags.FlagValues, about: str) -> list[str]:
    """Parses flags that a command has for itself: the words that are none, the program first; --help prints `about` and them, and ends.

    Raises:
      flags.Error: a flag that is not known, or a value that it does not take.
    """
    if {"--help", "-h"} & set(argv):
        print(about, known.get_help(), sep="\n")
        sys.exit(0)
    flags.FLAGS(argv[:1])  # absl's own, which app.run wants to be parsed
    return known(argv)


def fail(error: Exception | str, code: int, who: str = "", leave=sys.exit) -> None:
    """Ends the program with one line on stderr; `who` says which of several programs this is, `leave` how it ends."""
    print(f"error: {who}{' '.join(str(error).split())}", file=sys.stderr)
    leave(code)


FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Config file, with its argument after a colon.", lock_config=True)


def define_json() -> None:
    """The flag --json, which more than one command has."""
    if "json" not in FLAGS:
        flags.DEFINE_string("json", "", "File to write the numbers to.")


def parse(argv: list[str], example: str = "python -m cvmae.main --config=configs/demo.py") -> list[str]:
    """Parses a command line; what is wrong with it is said in one line, with an example of how it is said."""
    try:
        check_overrides(argv)
        rest = FLAGS(argv)
        if FLAGS.config is None:
            raise ConfigError(f"--config is missing: {example}")
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


def config_path() -> str:
    """The config as it was given, `configs/ssv2.py:variant=B/16`."""
    return FLAGS["config"].config_filename


def refuse_arguments(argv: list[str]) -> None:
    """Ends the program where there are words that belong to no option."""
    if len(argv) > 1:
        fail(ConfigError(f"unexpected argument {argv[1]!r}: options start with --"), 2)
