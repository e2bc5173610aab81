"""Reading of the features of one video: the arrays of an .npz, or a check that it is whole which keeps none of them in memory."""

import json
import math
import zipfile
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

from cvmae.interop.arrays import NPZ_ERRORS, npz_reason
from cvmae.storage.remote_path import RemotePath

_FEATURES = "features"
_WINDOWED, _OTHERS = (_FEATURES, "start_s", "end_s"), ("label", "path")  # see `feature_files`
_PIECE = 1 << 20  # bytes


class FeatureError(ValueError):
    """Features cannot be read; the message names the file, the reason, and the remedy."""

    @classmethod
    def of(cls, where: object, why: str) -> "FeatureError":
        """Returns the error of damaged features of one video; `where`: the file, or the shard and the video in it."""
        return cls(f"{where} is damaged ({why}): run task=extract again, which recomputes it")


class Expected(NamedTuple):
    """The video, the windows and the encoder that features should be of, each as far as it is known.

    Attributes:
      video: the name of the video; None: any.
      windows: the number of windows; None: any.
      encoder: the hash of what made them, see `feature_identity.digest`; empty: any.
      stamp: of the video file, see `data.stamps`; empty: any.
    """

    video: str | None = None
    windows: int | None = None
    encoder: str = ""
    stamp: str = ""


ANY = Expected()


def read_npz(file: BinaryIO, where: object, expected: Expected = ANY) -> dict[str, np.ndarray]:
    """Returns the arrays of an open .npz file, whose checksums are compared.

    Args:
      file: at its beginning.
      where: its path, or the shard and the video in it, for messages.
      expected: what it should be of.

    Raises:
      FeatureError: it is damaged, or of something else. OSError: it lies in a bucket, which does not answer.
    """
    try:
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
            _check_windows({name: array.shape for name, array in arrays.items()})
            _check_expected(archive, arrays["features"].shape, arrays["path"], expected)
        return arrays
    except MemoryError:  # of a damaged header, or of features that are too large
        file.seek(0)
        check_npz(file, where, expected)
        raise
    except NPZ_ERRORS as error:
        if isinstance(where, RemotePath) and isinstance(error, OSError):
            raise
        raise FeatureError.of(where, npz_reason(error)) from error


def check_npz(file: BinaryIO, where: object, expected: Expected = ANY) -> None:
    """Reads an open .npz file once, piece by piece, and compares its checksums and the shapes of its arrays.

    Args:
      file: at its beginning.
      where: as for `read_npz`.
      expected: what it should be of.

    Raises:
      FeatureError: it is damaged, or of something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            shapes = {name.removesuffix(".npy"): _check_member(archive, name) for name in archive.namelist()}
            _check_windows(shapes)
            with archive.open("path.npy") as member:
                path = np.lib.format.read_array(member, allow_pickle=False)
            _check_expected(archive, shapes["features"], path, expected)
    except NPZ_ERRORS as error:
        raise FeatureError.of(where, npz_reason(error)) from error


def crc32_of(path) -> int:
    """Returns the checksum of a local file, as zip files have it. Raises: OSError."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def _check_member(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Reads an array of an .npz to its end, where zipfile compares the checksum, and returns its shape. Raises: one of NPZ_ERRORS."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
        size = archive.getinfo(name).file_size - member.tell()
        while member.read(_PIECE):
            pass
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {size:,} bytes, not those of {dtype}{list(shape)}")
    return shape


def _check_windows(shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError where an array is absent, or has another number of windows than the others."""
    absent = [name for name in (*_WINDOWED, *_OTHERS) if name not in shapes or (name in _WINDOWED and not shapes[name])]
    if absent:
        raise ValueError(f"it has no array {absent[0]}")
    windows = {name: shapes[name][0] for name in _WINDOWED}
    if len(set(windows.values())) > 1:
        raise ValueError(f"its arrays have different numbers of windows, {windows}")


def _check_expected(archive: zipfile.ZipFile, shape: tuple[int, ...], path: np.ndarray, expected: Expected) -> None:
    """Raises ValueError where features are of another video, have another number of windows, or were made with something else."""
    if expected.video is not None and str(path) != expected.video:
        raise ValueError(f"it holds the features of {str(path)!r}")
    if expected.windows is not None and shape[0] != expected.windows:
        raise ValueError(f"it has {shape[0]:,} windows, and was written with {expected.windows:,}")
    if expected.encoder and _made_from(archive.comment, "encoder") not in ("", expected.encoder):
        raise ValueError(
            "it was made with another encoder or other settings than the others in this folder, or than identity.json, to be deleted where "
            "that is of another folder"
        )
    if expected.stamp and _made_from(archive.comment, "video") not in ("", expected.stamp):
        raise ValueError("it was made from another video of this name than the index lists, such as that of another split")


def made_by(file: BinaryIO) -> str:
    """Returns the hash of what made the features of a whole .npz, see `feature_identity.digest`; "" where it does not say."""
    with zipfile.ZipFile(file) as archive:
        return _made_from(archive.comment, "encoder")


def _made_from(comment: bytes, entry: str) -> str:
    """Returns an entry of the origin of features, from the comment of their .npz; "" where it has none, as in those of earlier versions."""
    try:
        return json.loads(comment)["made_from"][entry]
    except (ValueError, LookupError, TypeError):
        return ""
