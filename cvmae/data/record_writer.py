"""Writer of array_record files, whose errors are those of any other file."""

import errno
import os

from cvmae.files import storage_error_number


class RecordWriter:
    """An array_record file that is written record by record, each of which can be read alone. A context manager, which closes it.

    Raises, here and in its methods:
      OSError: it cannot be written; with the number of the cause, and the path. The library raises RuntimeError.
    """

    def __init__(self, path: str | os.PathLike):
        from array_record.python.array_record_module import ArrayRecordWriter  # does not exist on Windows

        self._path = os.fspath(path)
        self._writer = self._call(ArrayRecordWriter, self._path, "group_size:1")  # a group is read as a whole

    def write(self, content: bytes) -> None:
        """Writes a record. Raises: OSError."""
        self._call(self._writer.write, content)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._call(self._writer.close)

    def _call(self, function, *arguments):
        try:
            return function(*arguments)
        except RuntimeError as error:
            number = storage_error_number(error)
            reason = os.strerror(number) if number else " ".join(str(error).split())
            raise OSError(number or errno.EIO, reason, self._path) from error
