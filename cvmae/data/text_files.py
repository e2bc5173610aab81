"""Reading of text files that people write, as UTF-8; what is no such text is named in one line, with the place and the remedy."""

import json
import re
from typing import Any

from cvmae.data.probe import no_video
from cvmae.files import LFS_POINTER, is_lfs_pointer
from cvmae.storage.path import as_path

_HEAD = 4096
# Byte order marks; that of UTF-32 begins with one of UTF-16.
_MARKS = {"UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "UTF-16": (b"\xff\xfe", b"\xfe\xff")}
_HIGH = re.compile(b"[\x80-\xff]+")
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"


class TextError(ValueError):
    """A file is no text that can be read; the message is one line that names it, the place and the remedy."""


def read_utf8(path: str, errors: str = "strict") -> str:
    """Returns the text of a UTF-8 file, without the byte order mark that spreadsheets put before it; line ends stay as they are.

    Args:
      path: the file.
      errors: see `bytes.decode`; "surrogatepass" for a file that this package wrote with names that are not UTF-8.

    Raises:
      TextError: it is a file of another kind, or has a byte that is not UTF-8.
      OSError: it cannot be read.
    """
    with as_path(path).open("rb") as file:
        content = file.read(_HEAD)
        if is_lfs_pointer(content):
            raise TextError(f"{path}: {LFS_POINTER}")
        for encoding, marks in _MARKS.items():
            if content.startswith(marks):
                raise TextError(f"{path}: not UTF-8 text but {encoding}; save it as UTF-8")
        if kind := _binary_kind(path, content):
            raise TextError(f"{path}: not UTF-8 text but {kind}")
        content += file.read()
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise TextError(_describe(path, content, error.start)) from error


class RepeatedKeyError(ValueError):
    """An object of JSON has a key twice, of which Python would take the last."""

    def __init__(self, key: str):
        super().__init__(f"the key {key[:40]!r} is there twice in one object; leave one of the two")
        self.key = key


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text. Raises: ValueError or RecursionError as `json.loads`; RepeatedKeyError."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return value


def _binary_kind(path: str, head: bytes) -> str:
    """Names the kind of a file that is no text by its beginning; empty for one that may be."""
    if head.startswith(_ZIP):
        return "a zip archive, as spreadsheets (.xlsx) are; save it as CSV in UTF-8"
    if head.startswith(_GZIP):
        return "compressed by gzip; unpack it"
    if b"\0" not in head:
        return ""
    return "a binary file; give a text file" if no_video(path) else "a video or a picture; give the text file that lists videos"


def _describe(path: str, content: bytes, at: int) -> str:
    """Returns the message of a byte that is not UTF-8, at a position of the file."""
    start = max(content.rfind(b"\n", 0, at), content.rfind(b"\r", 0, at)) + 1
    line = len(content[:start].decode("utf-8", "replace").splitlines()) + 1 if start else 1
    column = len(content[start:at].decode("utf-8-sig" if not start else "utf-8", "replace")) + 1
    message = f"{path}:{line}: not UTF-8 text, byte 0x{content[at]:02x} in column {column}"
    runs = _HIGH.findall(content)
    if content[:at].isascii() and sum(map(len, runs)) >= 2 * len(runs):
        # A letter has two such bytes, or a word of another script has only such ones.
        return (
            f"{message} (of GBK, Big5, Shift-JIS, EUC-KR or Windows-1251, it seems); save the file as UTF-8, such as by "
            "iconv -f ENCODING -t UTF-8, with the encoding of the program that wrote it"
        )
    encoding = "Windows-1252" if any(0x80 <= byte < 0xA0 for byte in content) else "ISO-8859-1"
    letter = content[at : at + 1].decode(encoding, errors="replace")
    guess = f"in {encoding} it is {letter!r}" if letter.isprintable() and letter != "\ufffd" else "it is of another encoding"
    return f"{message} ({guess}); save the file as UTF-8, such as by iconv -f {encoding} -t UTF-8"
