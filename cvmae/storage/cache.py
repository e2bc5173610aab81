"""Local copies of remote files in a folder of limited size that several processes share.

A copy is written under a temporary name and renamed, so it is whole or not there. Its name holds a hash of the path and one of the
object's stamp: a file that was replaced in the bucket is copied again by the next process that starts. When the limit would be
exceeded, the copies that were read longest ago are deleted.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import sys
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from cvmae.storage import counters
from cvmae.storage.blocks import BlockFile
from cvmae.storage.path import check_regular, is_remote
from cvmae.storage.remote_path import RemotePath, Status

_SUFFIX = ".copy"
_TOTAL = "total"  # a file with the bytes of all copies
_KEPT = 0.9  # of the limit after files were deleted, so that this is not done for each new one
_stamps: dict[bytes, Status] = {}  # what this process found in the bucket, by a hash of the path


@dataclasses.dataclass(frozen=True)
class FileCache:
    """A folder of copies.

    Attributes:
      folder: on a local disk, created if missing; it must hold nothing else.
      limit: bytes of all copies together.
    """

    folder: str
    limit: int

    def open(self, url: str, offset: int = 0, size: int = -1) -> BinaryIO | None:
        """Opens the copy of an object or of a part of it, made if it is missing; None if it is larger than the cache.

        Args:
          url: of the object.
          offset, size: bytes of the part; a size of -1 is all of the object.

        Raises:
          OSError: the object cannot be read, or the copy not written.
        """
        remote = RemotePath(url)
        status = self._status(remote)
        bytes_ = status.size if size < 0 else size
        if bytes_ > self.limit:
            return None
        copy = self._copy(f"{remote}@{offset}+{size}", status.stamp)
        try:
            file = open(copy, "rb")  # noqa: SIM115 - an open file stays whole where another process deletes it
            with contextlib.suppress(OSError):
                os.utime(copy)  # it was read now
            counters.add(cache_hits=1)
            return file
        except FileNotFoundError:
            counters.add(cache_misses=1)
        return self._make(copy, bytes_, url, offset)

    def _status(self, remote: RemotePath) -> Status:
        """Returns the status of an object, asked for once in each process."""
        key = hashlib.blake2b(str(remote).encode(), digest_size=8).digest()
        if key not in _stamps:
            _stamps[key] = remote.status()
        return _stamps[key]

    def _copy(self, name: str, stamp: str) -> pathlib.Path:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        of_stamp = hashlib.blake2b(stamp.encode(), digest_size=8).hexdigest()
        return pathlib.Path(self.folder).expanduser() / digest[:2] / f"{digest[2:]}-{of_stamp}{_SUFFIX}"

    def _make(self, copy: pathlib.Path, size: int, url: str, offset: int) -> BinaryIO:
        """Writes a copy and returns it opened."""
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f"{uuid.uuid4().hex}.part")
        file = open(temporary, "w+b")  # noqa: SIM115 - the caller closes it
        try:
            RemotePath(url).copy_range(file, offset, size)
            file.flush()
            with self._locked() as total:
                added = 0 if copy.exists() else size  # another process was faster
                kept = self._make_room(added) if total + added > self.limit else total
                os.replace(temporary, copy)
                self._write_total(kept + added)
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        file.seek(0)
        return file

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Holds the lock of the folder, and gives the bytes of all copies."""
        import fcntl

        folder = pathlib.Path(self.folder).expanduser()
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                total = int((folder / _TOTAL).read_text(encoding="ascii"))
            except (OSError, ValueError):
                total = sum(size for _, size, _ in self._copies())
            yield total

    def _write_total(self, total: int) -> None:
        (pathlib.Path(self.folder).expanduser() / _TOTAL).write_text(str(total), encoding="ascii")

    def _make_room(self, added: int) -> int:
        """Deletes the copies that were read longest ago, so that `added` bytes fit; returns the bytes of those that stay."""
        copies = sorted(self._copies())
        there, target = sum(size for _, size, _ in copies), max(0, int(self.limit * _KEPT) - added)
        for _, size, path in copies:
            if there <= target:
                break
            path.unlink(missing_ok=True)
            there -= size
        return there

    def _copies(self) -> Iterator[tuple[float, int, pathlib.Path]]:
        """Yields (time of the last read, bytes, path) of every copy."""
        for folder in pathlib.Path(self.folder).expanduser().glob("??"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(_SUFFIX):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat()
                            yield status.st_mtime, status.st_size, pathlib.Path(entry.path)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """An object, or a part of one, that is opened where it is read, from a copy in the cache if there is one.

    Attributes:
      url: of the object.
      cache: None reads from the bucket each time.
      offset, size: bytes of the part; a size of -1 is all of the object.
    """

    url: str
    cache: FileCache | None = None
    offset: int = 0
    size: int = -1

    def open(self) -> BinaryIO:
        """Opens it for reading in any order. Raises: OSError or SetupError, it cannot be read."""
        if self.cache is not None:
            try:
                copy = self.cache.open(self.url, self.offset, self.size)
                if copy is not None:
                    return copy
            except OSError as error:
                if error.filename == self.url:
                    raise
                _note_once(f"no copy is kept in {self.cache.folder} ({error.strerror or error}): files are read from the bucket")
        return io.BufferedReader(BlockFile(self.url, self.size, offset=self.offset), 1 << 16)

    def read(self) -> bytes:
        """Returns its bytes. Raises: OSError or SetupError."""
        if self.cache is None and self.size >= 0:
            return RemotePath(self.url).read_range(self.offset, self.offset + self.size)
        with self.open() as file:
            return file.read()


def open_binary(path: str) -> BinaryIO:
    """Opens a local file, or one in a bucket by ranges, for reading. Raises: OSError or SetupError; see `check_regular`."""
    if is_remote(path):
        return RemoteFile(path).open()
    check_regular(path)
    return open(path, "rb")


@functools.cache
def _note_once(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
