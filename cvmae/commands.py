"""What all commands share, those that take no config too: flags of their own, and one line for what is wrong."""

import sys

from absl import flags


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
