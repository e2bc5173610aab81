"""Names and numbers in tables and messages: a name of a file may have a line break, which must not end a row or a line."""

import re
import unicodedata
from collections.abc import Iterable

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.0*)?")  # spreadsheets and data frames write 6 as 6.0
# Control characters, which include the line breaks of ASCII, and the line breaks of Unicode.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def csv_text(rows: Iterable[Iterable]) -> str:
    """Returns rows as CSV with "\\n" behind each, which `csv.reader` reads back as they are.

    Cells with a line break are quoted, and those with white space around them, as `read_rows` takes these as they stand.
    """
    # A row of one empty cell would be a blank line, which is no row.
    return "".join(f"{','.join(map(_cell, row)) or quoted('')}\n" for row in rows)


def _cell(value) -> str:
    text = "" if value is None else str(value)
    return quoted(text) if any(mark in text for mark in ',"\r\n') or text != text.strip() else text


def quoted(text: str) -> str:
    """Returns a text as a cell of CSV in quotes."""
    return '"' + text.replace('"', '""') + '"'


def one_line(name: str) -> str:
    """Returns a name for a message: as it is, or quoted and escaped where it has a line break or another control character."""
    return ascii(name) if _BREAKING.search(name) else name


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, as `1 video` or `1,200 videos`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def composed(text: str) -> str:
    """Returns a text in the normal form NFC: an accent may be written as one character or as two, which look alike."""
    return unicodedata.normalize("NFC", text)


def alike(name: str, names: Iterable[str]) -> str:
    """Returns a text that says which of `names` differs from a name by its normal form alone, and what to do; "" without one."""
    if name.isascii():
        return ""
    other = next((other for other in names if other != name and composed(other) == composed(name)), "")
    return other and (
        f"{other!a} is there, and {name!a} is asked for, which look alike (Unicode's normal forms NFC and NFD): write the name "
        "as it is there, or rename it"
    )


def has_line_break(text: str) -> bool:
    """Returns True for a text of several lines, by any of Unicode's line breaks."""
    return len(text.splitlines()) > 1
