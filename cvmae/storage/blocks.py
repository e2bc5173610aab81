"""Random access to a large object by ranges: a seekable file whose newest blocks stay in memory."""

import collections
import io

from cvmae.storage.remote_path import RemotePath

BLOCK_BYTES = 4 << 20  # most videos of data sets are smaller, and come with one request
KEPT_BLOCKS = 8


class BlockFile(io.RawIOBase):
    """An object as a binary file that can be read and sought. Not thread-safe.

    Args:
      path: of the object.
      size: its bytes, where they are known; -1 finds out, by the first block where that is not full.
      block_bytes: of a request.
      offset: the file's first byte in the object, for a member of an archive.

    Raises:
      OSError: from `read`, the object cannot be read.
    """

    def __init__(self, path: str, size: int = -1, block_bytes: int = BLOCK_BYTES, offset: int = 0):
        super().__init__()
        self._path, self._block_bytes, self._offset = RemotePath(path), block_bytes, offset
        self._blocks: collections.OrderedDict[int, bytes] = collections.OrderedDict()
        self._position, self.size = 0, size
        if size < 0:
            first = self._block(0)
            self.size = len(first) if len(first) < block_bytes else self._path.status().size - offset

    def _block(self, number: int) -> bytes:
        """Returns block `number`, the newest KEPT_BLOCKS from memory."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = number * self._block_bytes
        end = start + self._block_bytes if self.size < 0 else min(self.size, start + self._block_bytes)
        content = self._path.read_range(self._offset + start, self._offset + end)
        if self.size >= 0 and len(content) != end - start:
            raise OSError(5, "it is shorter than it was, or changed while it was read", str(self._path))
        self._blocks[number] = content
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        """Fills a buffer as far as one block goes; 0 at the end."""
        if self._position >= self.size:
            return 0
        number, start = divmod(self._position, self._block_bytes)
        part = self._block(number)[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
