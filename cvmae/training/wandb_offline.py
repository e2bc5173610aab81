"""Reading of what W&B has written offline: `.wandb` files, logs of LevelDB's form with one protocol buffer a record."""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

_MAGIC = b":W&B"
_BLOCK = 32768
_HEADER = 7  # of the file (":W&B", a number, a version), and of a piece of a record (checksum, length, kind)
_FULL, _FIRST, _MIDDLE, _LAST = range(1, 5)


def records(path: pathlib.Path) -> Iterator[Any]:
    """Yields the records (wandb's `Record`) of a file, of one that was cut short or is damaged those before. Raises: OSError."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined] # made at import

    content, position, begun = path.read_bytes(), _HEADER, b""
    if not content.startswith(_MAGIC):
        return
    while position + _HEADER <= len(content):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        piece = content[position + _HEADER : position + _HEADER + length]
        if len(piece) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        begun = piece if kind in (_FULL, _FIRST) else begun + piece
        position += _HEADER + length
        if kind in (_FULL, _LAST):
            try:
                yield Record.FromString(begun)
            except DecodeError:
                return


def newest_step(folder: pathlib.Path, run_id: str) -> int:
    """Returns the highest step in the rows of the offline runs of an id below FOLDER/wandb, -1 without any. Raises: OSError."""
    files = (folder / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    steps = (
        record.history.step.num for file in files for record in records(file) if record.WhichOneof("record_type") == "history"
    )
    return max(steps, default=-1)
