"""Names in tables and messages: a name of a file may have a line break, which must not end a row or a line."""

import csv
import io
import re
from collections.abc import Iterable

# Control characters, which include the line breaks of ASCII, and the line breaks of Unicode.
_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def csv_text(rows: Iterable[Iterable]) -> str:
    """Returns rows as CSV with "\\n" behind each, which `csv.reader` reads back as they are; cells with a line break are quoted."""
    text, lines = io.StringIO(newline=""), []
    writer = csv.writer(text, lineterminator="\r\n")  # with "\n", Python before 3.13 quotes no "\r"
    for row in rows:
        writer.writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n"))
        text.seek(0)
        text.truncate()
    return "".join(f"{line}\n" for line in lines)


def one_line(name: str) -> str:
    """Returns a name for a message: as it is, or quoted and escaped where it has a line break or another control character."""
    return ascii(name) if _BREAKING.search(name) else name


def has_line_break(text: str) -> bool:
    """Returns True for a text of several lines, by any of Unicode's line breaks."""
    return len(text.splitlines()) > 1
