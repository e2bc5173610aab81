"""Command lines: the --config flag with its overrides, flags that belong to one command, and one line on stderr for an error.

Two kinds of commands use it. `cvmae.main`, `cvmae.plan` and `cvmae.bench` run a config: they parse absl's global `FLAGS` with
`parse`. Tools without a config, such as `cvmae.report`, define their flags in a `FlagValues` of their own and parse it with
`parse_own`, so that flags of the same name can exist side by side in one process.
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from cvmae.config import ConfigError, check_key, find_config, flatten, load
from cvmae.config_comments import field_comments
from cvmae.files import as_path, write_json
from cvmae.storage.client import check_scheme, scheme_of

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Config file or name, with its argument after a colon.", lock_config=True)

EXAMPLE = "python -m cvmae.main --config=configs/demo.py"
_TYPED: dict[str, str] = {}  # paths of configs as they were typed


def define_json() -> None:
    """Defines the flag --json, which more than one command has."""
    if "json" not in FLAGS:
        flags.DEFINE_string("json", "", "File to write the numbers to.")


def check_json() -> None:
    """Raises ConfigError where --json names a file that cannot be written, before the minutes that its numbers take."""
    check_scheme(FLAGS.json, "--json=", is_written=True)
    path = as_path(FLAGS.json) if FLAGS.json else None
    if not isinstance(path, pathlib.Path):
        return  # a bucket's answer comes with the file
    if path.is_dir():
        raise ConfigError(f"--json={FLAGS.json} is a folder: give the path of a file")
    check_folder(path.parent, f"--json={FLAGS.json}")


def check_folder(folder: pathlib.Path, flag: str) -> None:
    """Raises ConfigError, which begins with the flag and its value, where a folder is not there or takes no new files."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{flag} cannot be written, {folder}: {error.strerror}; give a path in a folder that is there and takes new files"
        ) from error


def write_numbers(data: dict) -> None:
    """Writes data to the file of --json, where that is given; exits with code 1 where it cannot be written."""
    if not FLAGS.json:
        return
    try:
        write_json(FLAGS.json, data)
    except OSError as error:
        fail(f"--json={FLAGS.json} cannot be written: {error.strerror or error}", 1)


def print_help(argv: list[str], about: str, module: str) -> None:
    """Prints `about` and the flags of a command, and exits with code 0, if the arguments ask for help.

    Args:
      argv: the program, then its arguments.
      about: text before the flags.
      module: the command's `__name__`, which is `__main__` under `python -m` and its own as a console script.
    """
    _print_help(argv, about, lambda: FLAGS.module_help(sys.argv[0] if module == "__main__" else module))


def _print_help(argv: list[str], about: str, flags_help: Callable[[], str]) -> None:
    if {"--help", "-h"} & set(argv):
        with output_for_a_pager():
            print(about, flags_help(), sep="\n")
        sys.exit(0)


@contextlib.contextmanager
def output_for_a_pager():
    """Prints what the block prints, and nothing more where the reader of a pipe has closed it, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end


def parse(argv: list[str], example: str = EXAMPLE) -> list[str]:
    """Parses the command line of a command that runs a config, and returns the program and its positional arguments.

    Prints one line and exits with code 2 where an argument is wrong.

    Args:
      argv: the program, then its arguments.
      example: a command that would do, for the message that --config is missing.
    """
    try:
        argv = find_configs(argv)
        check_overrides(argv)
        positional = FLAGS(argv)
        if FLAGS.config is None:
            raise ConfigError(f"--config is missing: {example}")
        return positional
    except flags.IllegalFlagValueError as error:
        fail(_wrong_value(argv, str(error)), 2)
    except (flags.Error, ConfigError, TypeError, ValueError, OSError) as error:
        fail(error, 2)


EXPECTED = {bool: "True or False", int: "a whole number", float: "a number"}


def _wrong_value(argv: list[str], message: str) -> str:
    """Returns absl's message about the value of a flag, in words of the field that it sets where it sets one of the config."""
    match = re.match(r"flag --(config\.[\w.]+)=", message)
    if match is None:
        return message
    field = match[1].partition(".")[2]
    number = next(number for number, argument in enumerate(argv) if argument.lstrip("-").partition("=")[0] == match[1])
    value = argv[number].partition("=")[2] if "=" in argv[number] else argv[number + 1]
    default = _config_of(argv)
    for part in field.split("."):
        default = default[part]
    if isinstance(default, ml_collections.ConfigDict):
        return f"config.{field} is a section; set one of its fields: {', '.join(f'--config.{field}.{name}' for name in default)}"
    expected = EXPECTED.get(type(default))
    return message if expected is None else f"config.{field}={value!r}: expected {expected}, as its default, {default!r}"


def check_overrides(argv: list[str]) -> None:
    """Raises ConfigError, naming the nearest field, where an override such as `--config.data.worker=4` names no field.

    Runs before `FLAGS` parses: there ml_collections would raise an error that names neither the path nor the section.
    """
    config = _config_of(argv)
    if config is None:
        return
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name.startswith(("config.", "noconfig.")):
            check_key(config, name.partition(".")[2])


def _config_of(argv: list[str]):
    """Returns the config that the arguments name, without their overrides; None if they name none. Raises: ConfigError."""
    config_flag = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=config_flag)
    config_flag.set_gnu_getopt()  # values of flags that are unknown here, `--workdir DIR`, must not end the parsing
    config_flag(argv, known_only=True)
    return None if config_flag.config is None else load(config_flag.config)


def find_configs(argv: list[str]) -> list[str]:
    """Returns the command line with the names of configs as paths, `--config=ssv2` as that of this package. Raises: ConfigError."""
    expects_value, arguments = False, []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if expects_value and argument:
            argument = _remember(argument)
        elif equals and name.lstrip("-") == "config" and name.startswith("-"):
            argument = f"{name}={_remember(value)}"
        expects_value = argument in ("--config", "-config")
        arguments.append(argument)
    return arguments


def _remember(typed: str) -> str:
    path = find_config(typed)
    _TYPED[path] = typed
    return path


def config_path() -> str:
    """Returns the value of --config as it was typed, `ssv2:variant=B/16` or `configs/ssv2.py:variant=B/16`."""
    path = config_flags.get_config_filename(FLAGS["config"])
    return _TYPED.get(path, path)


def print_config(config) -> None:
    """Prints every field of a config by its dotted name, with the comment beside it in the config files."""
    comments = field_comments(config_flags.get_config_filename(FLAGS["config"]), config)
    with output_for_a_pager():
        for name, value in sorted(flatten(config).items()):
            comment = comments.get(name, "")
            if value is None:
                is_source = name.startswith("data.sources.")
                comment = f"that of data.{name.split('.', 3)[3]}" if is_source else "that of the weights of config.init_from"
            print(f"{name} = {value!r}" + (f"  # {comment}" if comment else ""))


def refuse_arguments(argv: list[str]) -> None:
    """Exits with code 2 if there are positional arguments. argv: as `parse` returns it."""
    if len(argv) > 1:
        fail(ConfigError(f"unexpected argument {argv[1]!r}: options start with --"), 2)


def parse_own(
    argv: list[str],
    command_flags: flags.FlagValues,
    about: str,
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
    local: Sequence[str] = (),
) -> list[str]:
    """Parses the flags of a command without a config, and returns the program and its positional arguments.

    --help prints `about` and the flags, and exits with code 0.

    Args:
      argv: the command line.
      command_flags: the flags of the command.
      about: the text of --help.
      reads, writes: names of the flags with a path that is read or written, here or in a bucket.
      local: of those with a path of this machine.

    Raises:
      flags.Error: a flag that does not exist, or a value that it does not take.
      ConfigError: a path has a scheme that is not supported there.
    """
    _print_help(argv, about, command_flags.get_help)
    FLAGS(argv[:1])  # app.run expects the global flags to be parsed
    rest = command_flags(argv)
    for name in (*reads, *writes):
        check_scheme(command_flags[name].value or "", f"--{name}=", is_written=name in writes)
    for name in local:
        path = command_flags[name].value or ""
        if scheme_of(path):
            raise ConfigError(
                f"--{name}={path}: {scheme_of(path)}:// is not supported there; give a path of this machine, and copy what is written"
            )
    return rest


def fail(error: Exception | str, code: int, prefix: str = "", leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Ends the program with one line on stderr.

    Args:
      error: the message; its lines are joined, those of a list, which are indented, by semicolons.
      code: the exit code.
      prefix: text before the message, such as which of several processes this is.
      leave: ends the process with a code.
    """
    text = re.sub(r"(?<=[^\s:;])\n +(?=\S)", "; ", str(error))
    print(f"error: {prefix}{' '.join(text.split())}", file=sys.stderr)
    leave(code)
