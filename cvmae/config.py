"""Configs: arg strings, durations, and checks that run before anything compiles."""

import contextlib
import difflib
import importlib
import importlib.util
import math
import pathlib
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

MAX_STEPS = 2**31 - 1  # steps are counted in int32
UNTRAINED = "untrained"  # the value of config.init_from that asks for an encoder of random weights


class ConfigError(ValueError):
    """A config that cannot run; the message is one line that names the field and the fix."""


def nearest(name: str, known) -> str:
    """A hint that names the known word nearest to `name`, or all of them where none is near."""
    words = list(known)
    return did_you_mean(name, words) or f"known: {', '.join(sorted(words))}"


def did_you_mean(name: str, words: Sequence[str]) -> str:
    """A hint that names the word nearest to `name`; empty where none is near."""
    close = difflib.get_close_matches(name, words, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Reads the arg string of a config file, `configs/ssv2.py:variant=B/16,runlocal`.

    Args:
      arg: comma-separated `key=value`; a key alone means True.
      **defaults: the known keys; a value takes the type of its default.

    Raises:
      ConfigError: an unknown key, a key given twice, or a value that is not of its key's type.
    """
    values, seen = dict(defaults), dict[str, str]()
    for part in filter(None, (arg or "").split(",")):
        key, equals, text = part.partition("=")
        if key in seen:
            raise ConfigError(f"config argument {key!r} is given twice, as {seen[key]!r} and {part!r}: leave one out")
        seen[key] = part
        if key not in defaults:
            raise ConfigError(f"config argument {key!r} is unknown: {nearest(key, defaults)}")
        kind = type(defaults[key])
        try:
            values[key] = _parse_bool(text if equals else "true") if kind is bool else kind(text)
        except ValueError as error:
            raise ConfigError(f"config argument {part!r}: expected a value of type {kind.__name__}") from error
    return ml_collections.ConfigDict(values)


def _parse_bool(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def steps(duration: str, field: str, *, steps_per_epoch: float | None = None, total: int | None = None) -> int:
    """Resolves a duration such as `800_epochs`, `5000_steps` or `5_percent` (of the whole run) into steps.

    Args:
      duration: the text; `0_steps` is 0.
      field: the name of the config field, for errors.
      steps_per_epoch: clips of the training split over the global batch.
      total: steps of the whole run; needed for percents.

    Raises:
      ConfigError: the text is no duration, its unit cannot be used here, or it is longer than MAX_STEPS.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)_(steps|epochs|percent)", str(duration))
    if not match:
        raise ConfigError(f"config.{field}={duration!r} is no duration: write it like 5000_steps, 800_epochs or 5_percent")
    amount, unit = float(match[1]), match[2]
    per_unit = {"steps": 1.0, "epochs": steps_per_epoch, "percent": None if total is None else total / 100}[unit]
    if per_unit is None:
        raise ConfigError(f"config.{field}={duration!r}: {unit} cannot be used for this field; write steps or epochs")
    if amount * per_unit > MAX_STEPS:
        raise ConfigError(f"config.{field}={duration!r:.60} is too long: a run has at most {MAX_STEPS} steps")
    return math.ceil(round(amount * per_unit, 6))


def config_folder() -> pathlib.Path:
    """Returns the folder of the configs that come with this package, `cvmae.configs`."""
    return pathlib.Path(next(iter(importlib.import_module("cvmae.configs").__path__)))


def find_config(path: str) -> str:
    """Returns the path of a config file with its argument, `/path/to/configs/ssv2.py:variant=B/16`.

    Args:
      path: a file, or the name of a config that comes with this package: `ssv2:variant=B/16`, `configs/ssv2.py` from any folder.

    Raises:
      ConfigError: there is neither such a file nor such a config.
    """
    file, colon, argument = path.partition(":")
    if pathlib.Path(file).is_file():
        return path
    folder, name = config_folder(), file.removeprefix("configs/").removesuffix(".py")
    known = [candidate.stem for candidate in folder.glob("*.py") if "def get_config(" in candidate.read_text(encoding="utf-8")]
    if name not in known:
        raise ConfigError(f"config file {file!r} does not exist, and no config is called {name!r}: {nearest(name, known)}")
    return f"{folder / name}.py{colon}{argument}"


def load(path: str, overrides: Mapping | None = None) -> ml_collections.ConfigDict:
    """Returns the config of `path.py:argument`, locked, as notebooks and tests use it.

    Args:
      path: see `find_config`.
      overrides: {'data.workers': 2}; a key must exist.

    Raises:
      ConfigError: there is no such file, it cannot be imported, its argument is wrong, or an override names no field.
    """
    file, _, argument = find_config(path).partition(":")
    neighbors = str(pathlib.Path(file).resolve().parent.parent)
    if neighbors not in sys.path:
        sys.path.append(neighbors)  # in a checkout a config file may say `from configs import common`, wherever it is run from
    spec = importlib.util.spec_from_file_location("cvmae_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {file!r} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    with _import_errors(file):
        spec.loader.exec_module(module)
        config = module.get_config(argument or None)
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"{file}: get_config returned {config!r:.60}; expected an ml_collections.ConfigDict")
    config.lock()
    for key, value in (overrides or {}).items():
        check_key(config, key)
        config.update_from_flattened_dict({key: value})
    return config


@contextlib.contextmanager
def _import_errors(file: str):
    """Turns an error inside a config file into one line that names the file and the line."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = f":{frames[-1].lineno}" if frames else ""
        raise ConfigError(f"{file}{line}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def check_key(config, key: str) -> None:
    """Raises ConfigError, naming the nearest known field, where the dotted `key` is no field of `config`."""
    node = config
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            where = ".".join(["config", *walked])
            hint = nearest(part, node) if isinstance(node, ml_collections.ConfigDict) else f"it is a value, {node!r:.40}"
            raise ConfigError(f"config.{key} does not exist: {where} has no field {part!r}; {hint}")
        walked.append(part)
        node = node[part]


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@contextlib.contextmanager
def config_errors(field: str = ""):
    """Turns errors about values that a config gave into ConfigError, with the name of the field before the message.

    Args:
      field: without `config.`; empty where the message names it already.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"config.{field}: {error}" if field else str(error)) from error


def flatten(tree: Mapping | ml_collections.ConfigDict, prefix: str = "") -> dict:
    """The leaves of nested mappings by dotted name, `{"data.workers": 2}`; empty mappings have none."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping | ml_collections.ConfigDict)
        leaves |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return leaves
