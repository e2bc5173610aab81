"""Reader of an array of structs in a MATLAB 5 file (`meta.mat` of ImageNet): numbers and texts alone, with errors for damaged files.

The format is the one of MathWorks' "MAT-File Format" (version 5). SciPy reads more of it, and ends the process on some damaged files.
"""

import struct
import zlib

_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CHAR, _STRUCT = 4, 2  # classes of arrays
_NUMBERS = {
    1: "b",
    2: "B",
    3: "h",
    4: "H",
    5: "i",
    6: "I",
    7: "f",
    9: "d",
    12: "q",
    13: "Q",
}  # of elements, for the module struct
_TEXTS = {4: "utf-16", 16: "utf-8", 17: "utf-16"}
_HEADER = 128  # bytes
_LARGEST = 2**26  # bytes of a variable; that of ImageNet has about one million

Value = str | float | None


def read_structs(content: bytes, name: str) -> list[dict[str, Value]]:
    """Returns the structs of an array in its order: texts, first values of numbers, and None for anything else, by field.

    Args:
      content: of the file.
      name: of the variable.

    Raises:
      ValueError: the content is no such file, is damaged, or has no structs of this name.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER], "")
    if not order:
        raise ValueError("no MATLAB 5 file")
    try:
        at = _HEADER
        while at < len(content):
            kind, data, at = _element(content, at, order)
            if kind == _COMPRESSED:
                kind, data, _ = _element(zlib.decompressobj().decompress(data, _LARGEST), 0, order)
            if kind == _MATRIX:
                array, count, variable, body = _open_array(data, order)
                if (array, variable) == (_STRUCT, name):
                    return _structs(data, body, count, order)
    except (struct.error, zlib.error, IndexError, OverflowError) as error:
        raise ValueError(f"damaged: {error}") from error
    raise ValueError(f"no structs called {name}")


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """Returns the type and the content of the element at a place, and the place after it."""
    kind, size = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:  # short: size, type and at most four bytes in one
        return kind & 0xFFFF, data[at + 4 : at + 4 + min(4, kind >> 16)], at + 8
    end = at + 8 + size
    if end > len(data):
        raise ValueError("damaged: it is cut short")
    return kind, data[at + 8 : end], end if kind == _COMPRESSED else end + -size % 8


def _open_array(data: bytes, order: str) -> tuple[int, int, str, int]:
    """Returns the class, the number of values and the name of an array, and the place of its content."""
    _, flags, at = _element(data, 0, order)
    _, sizes, at = _element(data, at, order)
    _, name, at = _element(data, at, order)
    count = 1
    for size in struct.unpack(f"{order}{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4]):
        count *= max(0, size)
    return struct.unpack_from(f"{order}I", flags)[0] & 0xFF, count, name.decode("latin-1"), at


def _structs(data: bytes, at: int, count: int, order: str) -> list[dict[str, Value]]:
    _, length, at = _element(data, at, order)
    (width,) = struct.unpack_from(f"{order}i", length)
    _, names, at = _element(data, at, order)
    if width < 1 or not names:
        raise ValueError("damaged: structs without fields")
    fields = [names[n : n + width].split(b"\0")[0].decode("latin-1") for n in range(0, len(names), width)]
    structs: list[dict[str, Value]] = []
    for _ in range(count):  # each takes bytes, so that a wrong count ends at the end of the data
        values: dict[str, Value] = {}
        for field in fields:
            _, value, at = _element(data, at, order)
            values[field] = _value(value, order) if value else None
        structs.append(values)
    return structs


def _value(data: bytes, order: str) -> Value:
    array, count, _, at = _open_array(data, order)
    if not count or array == _STRUCT or at >= len(data):
        return "" if array == _CHAR else None
    kind, content, _ = _element(data, at, order)
    if array == _CHAR:
        codec = _TEXTS.get(kind, "latin-1")
        return content.decode(codec + ("-le" if order == "<" else "-be") if codec == "utf-16" else codec)
    return float(struct.unpack_from(order + _NUMBERS[kind], content)[0]) if kind in _NUMBERS else None
