"""Comments of config files: the text that `--print_config` prints beside a field.

A field's comment stands at the end of the line that sets it, or on lines of its own above that. Config files are Python, where a
field is set by an attribute, by a loop or in a dict of another function. So the file is run once more with every assignment
recorded, which finds the line for configs of anyone.
"""

import ast
import contextlib
import functools
import io
import linecache
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator

import ml_collections

from cvmae.config import flatten, load

_LIBRARY = pathlib.Path(ml_collections.__file__).parent
_SOURCE = re.compile(r"\[[A-Za-z][\w -]*\]")  # [MAE], [V-JEPA 2]: where a value comes from

Line = tuple[str, int]  # a file and the number of a line in it


def field_comments(path: str, config) -> dict[str, str]:
    """Returns the comments of a config's fields by dotted name.

    A value that was set later, by a line without a comment or by a flag, has the comment of the line before it without the
    clauses that name a source, such as [MAE]: they are about the value that stood there.

    Args:
      path: of the config file with its argument, see `cvmae.config.load`.
      config: the config with the flags applied.
    """
    with _recorded_lines() as record:
        as_written = load(path)
    comments, values = {}, flatten(config)
    for name, node, key in _fields(as_written):
        lines = record.get((id(node), key), [])
        texts = [_comment_of(line, key) for line in lines]
        newest = next((number for number in reversed(range(len(texts))) if texts[number]), None)
        if newest is None:
            continue
        is_changed = newest < len(texts) - 1 or values[name] != node[key]
        comments[name] = _without_sources(texts[newest]) if is_changed else texts[newest]
    return comments


def _without_sources(comment: str) -> str:
    """Returns the clauses of a comment that name no source."""
    return "; ".join(clause for clause in re.split(r"; |\. (?=\[)", comment) if not _SOURCE.search(clause))


@contextlib.contextmanager
def _recorded_lines() -> Iterator[dict[tuple[int, str], list[Line]]]:
    """Yields the lines that set each (identity of a ConfigDict, key) in the block, in order of time."""
    record: dict[tuple[int, str], list[Line]] = {}
    alive = []  # identities are unique only among living objects
    usual = ml_collections.ConfigDict.__setitem__

    def set_and_record(self, key, value):
        usual(self, key, value)
        alive.append(self)
        record.setdefault((id(self), key), []).append(_caller())

    ml_collections.ConfigDict.__setitem__ = set_and_record  # `c.key = value` and the constructor call it
    try:
        yield record
    finally:
        ml_collections.ConfigDict.__setitem__ = usual


def _caller() -> Line:
    """Returns the line outside of ml_collections and this module that is being run."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = pathlib.Path(frame.f_code.co_filename)
        if _LIBRARY not in path.parents and path != pathlib.Path(__file__):
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _fields(config, prefix: str = "") -> Iterator[tuple[str, ml_collections.ConfigDict, str]]:
    """Yields (dotted name, the ConfigDict that holds it, key) of every leaf."""
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key, config, key


def _comment_of(line: Line, key: str) -> str:
    """Returns the comment of the statement that runs at a line, or of the line of `key` in a dict of that statement."""
    file, number = line
    statements, trailing, alone = _read(file)
    inner = [node for node in statements if node.lineno <= number <= (node.end_lineno or node.lineno)]
    if not inner:
        return ""
    statement = max(inner, key=lambda node: node.lineno)
    keys = [
        entry.lineno
        for node in ast.walk(statement)
        if isinstance(node, ast.Dict)
        for entry in node.keys
        if isinstance(entry, ast.Constant) and entry.value == key
    ]
    numbers = [*keys[:1], statement.end_lineno or number, statement.lineno]
    return next(filter(None, (trailing.get(number, "") or _above(number, alone) for number in numbers)), "")


def _above(number: int, alone: dict[int, str]) -> str:
    """Returns the lines of comments directly above a line, joined."""
    lines: list[str] = []
    while (number := number - 1) in alone:
        lines.insert(0, alone[number])
    return " ".join(lines)


@functools.cache
def _read(file: str) -> tuple[list[ast.stmt], dict[int, str], dict[int, str]]:
    """Returns the simple statements of a file, and its comments by line: those after code, and those on lines of their own."""
    text = "".join(linecache.getlines(file))
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
    trailing: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments = trailing if token.line[: token.start[1]].strip() else alone
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    return statements, trailing, alone
