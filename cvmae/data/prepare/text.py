"""Label files are read, and tables written, here: errors name the file, the line and what was expected."""

import csv
import io
import os
from collections.abc import Iterable, Iterator


class PrepareError(Exception):
    """What was given cannot be used; the message says where and what to do."""


def find_file(folder: str, names: Iterable[str], expected: str, within: Iterable[str] = ()) -> str:
    """The first of `names` in `folder`, or in the first of its folders `within` that has one.

    Raises: PrepareError, which says what was `expected`.
    """
    names = tuple(names)
    for place in (folder, *(os.path.join(folder, name) for name in within)):
        for name in names:
            if os.path.isfile(os.path.join(place, name)):
                return os.path.join(place, name)
    problem = f"has no {' or '.join(names)}" if os.path.isdir(folder) else "is not a folder"
    raise PrepareError(f"{folder}: {problem}; --labels is the folder with {expected}")


def read_text(path: str, expected: str) -> str:
    """A UTF-8 file, with or without a byte order mark. Raises: PrepareError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise PrepareError(f"{path}: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise PrepareError(f"{path}: not UTF-8 text ({error.reason}); expected {expected}") from error


def read_lines(path: str, expected: str) -> Iterator[tuple[str, str]]:
    """Pairs of ("file:line", text) of the lines that are not blank. Raises: PrepareError."""
    for number, line in enumerate(read_text(path, expected).splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_table(path: str, needed: Iterable[str], expected: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Pairs of ("file:line", {column: text}) of a CSV file whose header has the `needed` columns. Raises: PrepareError."""
    reader = csv.DictReader(io.StringIO(read_text(path, expected)), skipinitialspace=True)
    try:
        absent = [name for name in needed if name not in (reader.fieldnames or ())]
        if absent:
            raise PrepareError(f"{path}:1: the header lacks {', '.join(absent)}; expected the columns {expected}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise PrepareError(
                    f"{where}: the header has {len(reader.fieldnames)} columns, this line has not; expected {expected}"
                )
            yield where, {name: text.strip() for name, text in row.items()}
    except csv.Error as error:
        raise PrepareError(f"{path}:{reader.line_num}: not a CSV file ({error}); expected {expected}") from error


def write_table(path: str, header: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Writes a CSV file whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    temporary = f"{path}.part"  # always the same: what a run that was killed left is written over by the next
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())
    os.replace(temporary, path)
