"""Reading of label files and writing of tables; errors name the file, the line and the expected content."""

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cvmae.data.lines import csv_text
from cvmae.data.text_files import RepeatedKeyError, TextError, parse_json, read_utf8
from cvmae.storage.client import raise_of_store
from cvmae.storage.path import is_remote, isdir, isfile, join
from cvmae.storage.remote_path import RemotePath


class PrepareError(Exception):
    """Error in an option or an input file; the message names it and a remedy."""


def find_file(folder: str, names: Iterable[str], expected: str, within: Iterable[str] = ()) -> str:
    """Returns the path of the first of `names` in `folder`, or in the first of its subfolders `within` that has any.

    Raises: PrepareError with the text `expected` if there is no such file.
    """
    names = tuple(names)
    if path := find_optional(folder, names, within):
        return path
    problem = f"has no {' or '.join(names)}" if isdir(folder) else "is not a folder"
    raise PrepareError(f"{folder}: {problem}; --labels is the folder with {expected}")


def find_optional(folder: str, names: Iterable[str], within: Iterable[str] = ()) -> str:
    """Returns the path that `find_file` does, "" if there is no such file."""
    parents = (folder, *(join(folder, name) for name in within))
    paths = (join(parent, name) for parent, name in itertools.product(parents, names))
    return next(filter(isfile, paths), "")


def read_text(path: str, expected: str) -> str:
    """Returns the text of a UTF-8 file, without the byte order mark. Raises: PrepareError if it cannot be read."""
    try:
        return read_utf8(path).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise_of_store(error)
        raise PrepareError(f"{path}: {error.strerror}; expected {expected}") from error
    except TextError as error:
        raise PrepareError(f"{error}; expected {expected}") from error


def read_lines(path: str, expected: str) -> Iterator[tuple[str, str]]:
    """Yields pairs ("file:line", text) of the lines that are not blank. Raises: PrepareError if the file cannot be read."""
    for number, line in enumerate(read_text(path, expected).split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_json(path: str, expected: str) -> tuple[Any, str]:
    """Returns the value of a JSON file, and its text. Raises: PrepareError if it cannot be read."""
    text = read_text(path, expected)
    try:
        return parse_json(text), text
    except json.JSONDecodeError as error:
        raise PrepareError(f"{path}:{error.lineno}: not JSON ({error.msg}); expected {expected}") from error
    except RepeatedKeyError as error:
        places = [match.start() for match in re.finditer(rf"{re.escape(json.dumps(error.key))}\s*:", text)]
        line = f":{text.count(chr(10), 0, places[1]) + 1}" if len(places) == 2 else ""  # of more, any two may be the ones
        raise PrepareError(f"{path}{line}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise PrepareError(f"{path}: JSON that is no label file ({str(error)[:60]}); expected {expected}") from error


def read_table(path: str, needed: Iterable[str], expected: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields pairs ("file:line", {column: text}) of the rows of a CSV file.

    Raises: PrepareError if it cannot be read, its header lacks one of the `needed` columns, or a row has other columns.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, expected)), skipinitialspace=True)
    try:
        columns = reader.fieldnames or ()
        absent = [name for name in needed if name not in columns]
        if absent:
            raise PrepareError(f"{path}:1: the header lacks {', '.join(absent)}; expected the columns {expected}")
        for row in reader:
            cells = itertools.chain(*(cell if isinstance(cell, list) else [cell or ""] for cell in row.values()))
            broken = [cell for cell in cells if "\n" in cell]
            where = f"{path}:{reader.line_num - sum(cell.count(chr(10)) for cell in broken)}"
            if broken:
                start = broken[0].partition("\n")[0][:40]
                raise PrepareError(
                    f"{where}: a quoted field runs over several lines, from {start!r} on; close the quote, or remove it"
                )
            if None in row or None in row.values():
                raise PrepareError(f"{where}: the header has {len(columns)} columns, this line has not; expected {expected}")
            yield where, {name: text.strip() for name, text in row.items()}
    except csv.Error as error:
        raise PrepareError(f"{path}:{reader.line_num}: not a CSV file ({error}); expected {expected}") from error


def write_table(path: str, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes a CSV file atomically: it never exists in part."""
    text = csv_text([header, *rows])
    if is_remote(path):
        RemotePath(path).write_text(text)
        return
    temporary = f"{path}.part"  # a fixed name, so that a repeated run overwrites what a killed one left
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.replace(temporary, path)
