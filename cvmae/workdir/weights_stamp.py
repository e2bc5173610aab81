"""Stamps of weights on a disk: short texts that become others when weights are replaced under the same path."""

import hashlib
import os
import pathlib
from collections.abc import Iterator

from cvmae.workdir import CHECKPOINTS
from cvmae.workdir.saved_steps import saved_steps

# Reading some of each file tells other weights apart, which differ everywhere, without reading gigabytes at each start.
_PIECES, _PIECE_BYTES = 16, 4096
_SUFFIXES = frozenset((".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors"))


def weights_stamp(path: str) -> str:
    """Returns a stamp of the weights in a file, a folder or a workdir's newest checkpoint; "" where no such file is on this disk.

    It is a hash of the names and sizes of their files and of pieces of each, so that a copy has the stamp of what it was copied from.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        files = list(_files(pathlib.Path(path).expanduser()))
        for name, file in files:
            digest.update(f"{name} {os.path.getsize(file)}".encode())
            for piece in _pieces(file):
                digest.update(piece)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest() if files else ""


def _files(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (name, file) of the files that hold weights, in the order of their names; a file by itself has no name."""
    if path.is_file():
        yield "", path
        return
    if not path.is_dir():
        return
    steps = saved_steps(path / CHECKPOINTS)
    folder = path / CHECKPOINTS / str(steps[-1]) if steps else path
    for file in sorted(folder.rglob("*") if steps else folder.iterdir()):
        if file.is_file() and (steps or file.suffix in _SUFFIXES):
            yield str(file.relative_to(path)), file


def _pieces(path: pathlib.Path) -> Iterator[bytes]:
    """Yields pieces of a file that are spread over it evenly, the first and the last bytes among them."""
    last = max(0, path.stat().st_size - _PIECE_BYTES)
    with open(path, "rb") as file:
        for start in sorted({last * number // (_PIECES - 1) for number in range(_PIECES)}):
            file.seek(start)
            yield file.read(_PIECE_BYTES)
