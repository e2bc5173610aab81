"""The file classes.csv beside a manifest or beside shards, which gives classes their numbers and names."""

import csv
import io
import re

from cvmae.data.label_texts import CLASSES, LabelError, normal_form
from cvmae.data.lines import has_line_break
from cvmae.data.text_files import TextError, read_utf8
from cvmae.storage.client import raise_of_store
from cvmae.storage.path import exists


def read_classes(path: str) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names in a classes.csv, and a line if a file that is there numbers no classes.

    There are no names if the file does not exist, or has other columns and so maybe another purpose.

    Raises:
      LabelError: the file cannot be read, or a line of it is no class.
    """
    try:
        if not exists(path):
            return (), []
        header, *rows = list(csv.reader(io.StringIO(read_utf8(path), newline=""))) or [[]]
    except OSError as error:
        raise_of_store(error)
        raise LabelError(f"{path}: {error.strerror}; it has to be a file with number,name, or not to be there") from error
    except TextError as error:
        raise LabelError(str(error)) from error
    except csv.Error as error:
        raise LabelError(f"{path}: not a CSV file ({error}); expected number,name") from error
    if header != ["number", "name"]:
        line = ",".join(header)[:40]
        if {"number", "name"} <= {cell.strip().lower() for cell in re.split(r"[,;\t]", ",".join(header))}:
            raise LabelError(f"{path}:1: the header is {line!r}; write number,name, these two alone, separated by a comma")
        begins = f"begins with {line!r}" if line else "begins with no header"
        return (), [f"{CLASSES} is not read, since it {begins}: where it is to number the classes, its first line is number,name"]
    if not rows:
        return (), [f"{CLASSES} lists no class, so it numbers none; list all of them, or remove the file"]
    names: dict[str, int] = {}
    for number, row in enumerate(rows):
        row = [normal_form(cell) for cell in row]
        if len(row) != 2 or row[0] != str(number):
            raise LabelError(f"{path}:{number + 2}: {','.join(row)!r} is not class {number} and a name; expected number,name")
        name = row[1]
        if has_line_break(name):
            raise LabelError(f"{path}: the name of class {number}, {name[:40]!r}, has a line break; write it in one line")
        if not name:
            raise LabelError(f"{path}:{number + 2}: class {number} has no name; write one, since an empty label means no label")
        if name in names:
            raise LabelError(
                f"{path}:{number + 2}: classes {names[name]} and {number} are both called {name[:40]!r}; give each a name of its own"
            )
        names[name] = number
    return tuple(names), []
