"""Rows of a manifest file, CSV or JSON lines, as fields: the header, rows that are whole, and fields and splits that are not read."""

import collections
import csv
import difflib
import io
import json
import re
from collections.abc import Collection, Iterable

from cvmae.data.label_texts import EMPTY
from cvmae.data.lines import has_line_break, one_line, quoted
from cvmae.data.text_files import RepeatedKeyError, TextError, parse_json, read_utf8
from cvmae.storage.client import raise_of_store

COLUMNS = "path,label,split[,start,end]"
COLUMN_NAMES = ("path", "label", "split", "start", "end")
_REQUIRED = COLUMN_NAMES[:3]
_SHOWN = 8  # columns in a note
_SHORTEST = 4  # letters of a split that may be misspelled: val and eval are two
_NEAR_SPLIT = 0.8  # trian and train have 0.8, text and test 0.75
_NEAR = 0.75  # lable and label have 0.8, gender and end 0.67
# The words of columns that give times under other names.
_BOUNDS = {"start", "begin", "from", "end", "stop", "to"}
_TIMES = {"time", "times", "timestamp", "t", "s", "ms", "sec", "secs", "second", "seconds", "frame", "frames", "clip", "segment"}


class ManifestError(ValueError):
    """A manifest cannot be used; the message gives the line and a remedy."""


class QuotedText(str):
    """A path with white space around it that is in quotes, and so is meant as it stands."""


def read_rows(path):
    """Yields ("file:line", {field: value}) of each row; path, label and split are among the fields."""
    as_json = path.lower().endswith((".jsonl", ".ndjson", ".json"))
    try:
        yield from (_json_rows if as_json else _csv_rows)(path, io.StringIO(read_utf8(path), newline=""))
    except OSError as error:
        raise_of_store(error)
        raise ManifestError(f"{path}: {error.strerror}; give a manifest, a file with {COLUMNS}") from error
    except csv.Error as error:
        raise ManifestError(f"{path}: not a CSV file ({error}); expected {COLUMNS}") from error
    except TextError as error:
        raise ManifestError(f"{error}; a manifest is a file with {COLUMNS}") from error


def _csv_rows(path, file):
    lines: list[str] = []  # of the row, since `csv` does not say what was in quotes
    reader = csv.DictReader(_keep(file, lines))
    names = reader.fieldnames or ()
    _check_header(f"{path}:1", names)
    before = reader.line_num
    lines.clear()
    for row in reader:
        where = f"{path}:{reader.line_num}"
        others = [cell for name, cell in row.items() if name not in (None, "path") and cell] + (row.get(None) or [])
        # A name may have a line break; a path that took rows into it begins with the rest of its own row.
        is_whole = (row["path"] or "").partition("\n")[0].count(",") < len(names) - 1 - names.index("path")
        _check_one_line(f"{path}:{before + 1}", others if is_whole else [row["path"], *others])
        before = reader.line_num
        if None in row or None in row.values():
            raise ManifestError(
                f"{where}: the header has {len(reader.fieldnames)} columns, this line does not; quote a path that has a comma"
            )
        if row["path"] != row["path"].strip() and _is_quoted(row["path"], "".join(lines)):
            row["path"] = QuotedText(row["path"])
        lines.clear()
        yield where, row


def _keep(file, lines):
    for line in file:
        lines.append(line)
        yield line


def _is_quoted(cell, line):
    return re.search(rf"(?:^|,){re.escape(quoted(cell))}(?:[,\r\n]|$)", line) is not None


def _json_rows(path, file):
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
            json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise ManifestError(f"{where}: not JSON ({error.msg}); write one object per line") from error
        except RepeatedKeyError as error:
            raise ManifestError(f"{where}: {error}") from error
        except (ValueError, RecursionError) as error:  # half a surrogate pair, a number of thousands of digits, deep nesting
            raise ManifestError(f"{where}: JSON that is no text or number ({str(error)[:60]}); repair the line") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{where}: expected an object with {COLUMNS}, got {line.strip()[:40]!r}")
        _check_fields(where, row, "the object")
        if isinstance(row["split"], (list, dict, bool)):
            raise ManifestError(
                f"{where}: split {str(row['split'])[:40]} is no word; give one, and a row for each split that the video is in"
            )
        if has_line_break(split := text_of(row["split"])):
            raise ManifestError(f"{where}: split {split[:40]!r} has a line break; write it in one line")
        if isinstance(row["path"], str):
            row["path"] = QuotedText(row["path"])
        yield where, row


def ignored_fields(rows: Iterable[tuple[str, dict]]) -> list[str]:
    """Returns a line about the fields that are not read, each with the known one that its name resembles; [] without any.

    Args:
      rows: as `read_rows` yields them.
    """
    names = [str(name) for name in dict.fromkeys(name for _, row in rows for name in row) if name not in COLUMN_NAMES]
    if not names:
        return []
    shown = ", ".join(
        (one_line(name[:40]) if name.strip() else "a column without a name") + (f" ({hint})" if (hint := _near(name)) else "")
        for name in names[:_SHOWN]
    )
    return [f"{'a column is' if len(names) == 1 else 'columns are'} not read: {shown}{', ...' if len(names) > _SHOWN else ''}"]


def stray_splits(rows: Iterable[tuple[str, dict]], used: Collection[str]) -> list[str]:
    """Returns a line for each split that is not used and resembles one that is, and for the rows that have none.

    Args:
      rows: as `read_rows` yields them.
      used: names of splits.
    """
    places = collections.defaultdict(list)
    for where, row in rows:
        places[text_of(row["split"])].append(where)
    notes = []
    for split, lines in places.items():
        count = "1 row has" if len(lines) == 1 else f"{len(lines):,} rows have"
        if split in used:
            continue
        if split.lower() in EMPTY:
            notes.append(f"{count} no split and so no use here, first {lines[0]}; write one, or remove them")
        elif set(re.split(r"[\s,;|/+&]+", split)).intersection(used):
            notes.append(
                f"{count} the split {split[:40]!r}, which is not read, first {lines[0]}; a video in several splits has a row for each"
            )
        elif near := next((name for name in used if _is_misspelled(split, name)), ""):
            notes.append(
                f"{count} the split {split[:40]!r}, which is not read, first {lines[0]}; write {near!r} if that is meant"
            )
    return notes


def _is_misspelled(split: str, name: str) -> bool:
    """Returns True where two splits differ in case or in what is no letter or digit, or in a letter within; not test and testA."""
    one, other = ("".join(filter(str.isalnum, text.casefold())) for text in (split, name))
    if one == other:
        return True
    if not (split + name).isalpha() or min(len(one), len(other)) < _SHORTEST or (one[0], one[-1]) != (other[0], other[-1]):
        return False
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _NEAR_SPLIT


def _near(name: str) -> str:
    """Returns a question about the column that a name resembles; "" without one."""
    close = difflib.get_close_matches(name.strip().lower(), COLUMN_NAMES, n=1, cutoff=_NEAR)
    return f"did you mean {close[0]}?" if close else ""


def _check_header(where, names):
    _check_one_line(where, names)
    for name in names:
        if name not in COLUMN_NAMES and name.strip().lower() in COLUMN_NAMES:
            raise ManifestError(f"{where}: the header has {name!r}; write {name.strip().lower()}, as in {COLUMNS}")
    line = ",".join(names)
    instead = next((mark for mark in "\t;| " if set(_REQUIRED) <= {part.strip().lower() for part in line.split(mark)}), None)
    hint = "" if instead is None else f": put commas in place of {instead!r}"
    _check_fields(where, names, "the header line", f"; it is {line[:60]!r}{hint}")
    twice = sorted({name for name in names if names.count(name) > 1} & set(COLUMN_NAMES))
    if twice:
        raise ManifestError(f"{where}: the header line has {', '.join(twice)} twice; expected {COLUMNS}")


def _check_one_line(where, cells):
    """Raises ManifestError for a cell with a line break: a quote without its partner takes the rows behind it into one cell."""
    broken = [cell for cell in cells if "\n" in cell or "\r" in cell]
    if broken:
        start = broken[0].splitlines()[0][:40]
        raise ManifestError(f"{where}: a quoted field runs over several lines, from {start!r} on; close the quote, or remove it")


def _check_fields(where, fields, holder, more=""):
    absent = [name for name in _REQUIRED if name not in fields]
    if absent:
        typos = [
            f"{one_line(str(name)[:40])}: {hint}" for name in fields if name not in COLUMN_NAMES and (hint := _near(str(name)))
        ]
        aside = f" ({'; '.join(typos)})" if typos else ""
        raise ManifestError(f"{where}: {holder} lacks {', '.join(absent)}{aside}; expected {COLUMNS}{more}")
    times = [name for name in fields if name not in COLUMN_NAMES and _is_time(name)]
    if times:
        raise ManifestError(
            f"{where}: {holder} has {', '.join(times)}, which would not be read: write start and end, in seconds, or leave it out"
        )


def _is_time(name):
    """Returns True for the name of a column that gives a beginning or an end, such as start_time or endFrame, and not end_effector."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(name))}
    return bool(words & _BOUNDS) and words <= _BOUNDS | _TIMES


def text_of(value) -> str:
    """Returns a field as text, stripped; "" for None."""
    return "" if value is None else str(value).strip()
