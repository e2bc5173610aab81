"""Reading of the tables beside features, index.csv and the CSV of each shard, also as spreadsheets and editors save them."""

import csv
import io
from collections.abc import Iterator, Sequence

from cvmae.data.lines import WHOLE_NUMBER
from cvmae.data.text_files import TextError, read_utf8
from cvmae.storage.path import AnyPath


class TableError(ValueError):
    """A table is damaged; the message names the file, the line, the column and the value."""


def read_table(path: AnyPath, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields ("file:line", {column: text}) of the rows of a table, but for those of empty cells alone.

    Raises:
      TableError: it is no text, has a row of another length than the header, or its header lacks one of the `needed` columns.
      OSError: it cannot be read.
    """
    try:
        reader = csv.reader(io.StringIO(read_utf8(str(path), "surrogatepass"), newline=""))
    except TextError as error:
        raise TableError(str(error).replace(str(path), path.name, 1)) from error
    except IsADirectoryError as error:
        raise TableError(f"{path.name}: it is a folder") from error
    header: list[str] = []
    try:
        for cells in filter(any, reader):
            where = f"{path.name}:{reader.line_num}"
            if not header:
                header = cells
                _check_header(where, header, needed)
                continue
            if len(cells) != len(header):
                raise TableError(f"{where}: {','.join(cells)[:40]!r} is not a value for each of {','.join(header)}")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise TableError(f"{path.name}:{reader.line_num}: not CSV ({error})") from error
    if not header:
        raise TableError(f"{path.name}: it is empty, and expected is a line with {','.join(needed)}")


def whole_number(where: str, row: dict[str, str], column: str) -> int:
    """Returns the number of a cell, 6 also of `6.0`. Raises: TableError with `where`, it has another text, or a negative number."""
    text = row[column].strip()
    if not WHOLE_NUMBER.fullmatch(text) or text.startswith("-") or len(text) > 18:
        raise TableError(f"{where}: {column} is {text[:40]!r}, and expected is a whole number")
    return int(text.partition(".")[0])


def _check_header(where: str, header: list[str], needed: Sequence[str]) -> None:
    """Raises TableError where columns are absent or there twice."""
    absent = [name for name in needed if name not in header]
    twice = [name for name in header if header.count(name) > 1]
    if absent or twice:
        problem = f"lacks {', '.join(absent)}" if absent else f"has {twice[0]!r} twice"
        raise TableError(f"{where}: the header is {','.join(header)[:60]!r}, which {problem}; expected {','.join(needed)}")
