"""Paths with a scheme, with the methods of `pathlib.Path` that this package uses.

An object store has no folders, appends to nothing and renames nothing: a folder is there if an object lies in it, objects are
written whole, and `create` and `replace_if` are its locks.
"""

import fnmatch
import functools
import io
import json
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple

from cvmae.storage import counters
from cvmae.storage.client import SetupError, call, check_scheme, scheme_of

PART_BYTES = 16 << 20  # of a large object, one request each


class Status(NamedTuple):
    """Size of an object in bytes, and a text that changes with its content."""

    size: int
    stamp: str


@functools.total_ordering
class RemotePath:
    """A path such as `s3://bucket/folder/file`; the methods are those of `pathlib.Path`, and their errors OSErrors."""

    def __init__(self, url: str | os.PathLike):
        scheme, _, rest = str(url).partition("://")
        bucket, _, key = rest.partition("/")
        key = posixpath.normpath(key).lstrip("/") if key.strip("/") else ""
        if not bucket or key.startswith("../") or key == "..":
            check_scheme(str(url))  # file:///x is of no store
            raise SetupError(f"{url} names no bucket: give {scheme}://BUCKET/PATH")
        self.url = f"{scheme.lower()}://{bucket}" + ("" if key in ("", ".") else f"/{key}")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __hash__(self) -> int:
        return hash(self.url)

    def __eq__(self, other) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __lt__(self, other: "RemotePath") -> bool:
        return self.url < other.url

    def __truediv__(self, name: str | os.PathLike) -> "RemotePath":
        text = pathlib.PurePath(name).as_posix() if isinstance(name, os.PathLike) else name
        return RemotePath(text if scheme_of(text) else f"{self.url}/{text}")

    def as_posix(self) -> str:
        return self.url

    @property
    def parts(self) -> tuple[str, ...]:
        scheme, _, rest = self.url.partition("://")
        bucket, *names = rest.split("/")
        return (f"{scheme}://{bucket}", *names)

    def absolute(self) -> "RemotePath":
        return self

    @property
    def name(self) -> str:
        return self.url.partition("://")[2].rpartition("/")[2]

    @property
    def stem(self) -> str:
        return pathlib.PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return pathlib.PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        head = self.url.rpartition("/")[0]
        return self if head.endswith("/") else RemotePath(head)

    def with_name(self, name: str) -> "RemotePath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        return self.with_name(self.stem + suffix)

    def relative_to(self, other: "RemotePath") -> pathlib.PurePosixPath:
        """Returns the path below a folder. Raises: ValueError, it does not lie there."""
        if not self.url.startswith(f"{other.url}/"):
            raise ValueError(f"{self} is not below {other}")
        return pathlib.PurePosixPath(self.url[len(other.url) + 1 :])

    # Looking

    def status(self) -> Status:
        """Returns size and stamp of an object. Raises: FileNotFoundError, the object is missing, or is a folder."""
        info = call(self.url, lambda fs: fs.info(self.url))
        if info["type"] != "file":
            raise FileNotFoundError(2, "no such object", self.url)
        return status_of_info(info)

    def _kind(self) -> str:
        """Returns `file`, `directory`, or "" where there is neither; one request or two, however much lies in a folder."""
        try:
            return call(self.url, lambda fs: fs.info(self.url))["type"]
        except FileNotFoundError:
            return ""

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Returns True if an object lies below this path."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        return bool(self._kind())

    def listing(self) -> dict[str, Status | None]:
        """Returns what lies in the folder by its name, in order; None in place of the status of a folder. Empty without any."""
        try:
            entries = call(self.url, lambda fs: fs.ls(self.url, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        own = self.url.partition("://")[2]
        entries_by_name = {}
        for entry in entries:
            path = entry["name"].rstrip("/")
            if path != own:  # the marker of the folder that some tools write, or the object itself
                entries_by_name[path.rpartition("/")[2]] = status_of_info(entry) if entry["type"] == "file" else None
        return dict(sorted(entries_by_name.items()))

    def iterdir(self) -> "Iterator[RemotePath]":
        return (self / name for name in self.listing())

    def files(self) -> "dict[RemotePath, Status]":
        """Returns every object below the folder, in order."""
        try:
            entries = call(self.url, lambda fs: fs.find(self.url, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        start = self.url.partition("://")[2] + "/"
        entries_by_name = {
            self / entry["name"][len(start) :]: status_of_info(entry)
            for entry in entries.values()
            if entry["name"].startswith(start) and not entry["name"].endswith("/")
        }
        return dict(sorted(entries_by_name.items()))

    def glob(self, pattern: str) -> "Iterator[RemotePath]":
        """Yields the objects of a pattern without `**`, in order; a `*` does not reach over a slash."""
        head, _, tail = pattern.partition("/")
        for name, status in self.listing().items():
            if fnmatch.fnmatchcase(name, head):
                if tail and status is None:
                    yield from (self / name).glob(tail)
                elif not tail:
                    yield self / name

    def rglob(self, pattern: str) -> "Iterator[RemotePath]":
        return (path for path in self.files() if fnmatch.fnmatchcase(path.name, pattern))

    # Reading

    def read_bytes(self) -> bytes:
        return self.read_range(0, None)

    def read_range(self, start: int, end: int | None) -> bytes:
        """Returns the bytes from `start` to `end`, fewer at the end of the object. Raises: OSError."""
        try:
            content = call(self.url, lambda fs: fs.cat_file(self.url, start=start, end=end))
        except OSError as error:
            if "416" in str(error) or "InvalidRange" in str(error) or "not satisfiable" in str(error):
                return b""  # beyond the end, or of an object without bytes
            raise
        counters.add(bytes_read=len(content))
        return bytes(content)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.open("r", encoding=encoding, errors=errors, newline=None).read()

    def open(self, mode: str = "r", *, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> IO:
        """Opens an object, which is read whole, for reading; to write one see `write_bytes` and `files.replacing`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self} cannot be opened with mode {mode!r}: objects are written whole")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, encoding=encoding, errors=errors, newline=newline)

    def download(self, target: str | os.PathLike) -> None:
        """Copies an object into a local file."""
        with open(target, "wb") as file:
            self.copy_range(file, 0, self.status().size)

    def copy_range(self, file: BinaryIO, offset: int, size: int) -> None:
        """Writes `size` bytes from `offset` on to an open file, by several requests where they are many. Raises: OSError."""
        end = offset + size
        for start in range(offset, end, PART_BYTES):
            part = self.read_range(start, min(end, start + PART_BYTES))
            if len(part) != min(end, start + PART_BYTES) - start:
                raise OSError(5, "it is shorter than it was, or changed while it was read", self.url)
            file.write(part)

    def check_bucket(self) -> None:
        """Raises FileNotFoundError if the bucket is not there, and OSError if it cannot be reached."""
        bucket = "/".join(self.url.split("/")[:3])
        call(self.url, lambda fs: fs.info(bucket))

    # Writing

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: folders need not be made."""

    def write_bytes(self, content: bytes) -> int:
        """Writes an object, in place of one that is there; readers see the one or the other."""
        call(self.url, lambda fs: fs.pipe_file(self.url, content))
        return len(content)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        return self.write_bytes(text.encode(encoding, errors))

    def upload(self, source: str | os.PathLike) -> None:
        """Writes a local file as an object, which appears once it is complete."""
        call(self.url, lambda fs: fs.put_file(os.fspath(source), self.url))

    def create(self, content: bytes) -> bool:
        """Writes an object if it does not exist yet; returns False if it does, and leaves it. Of several processes one succeeds."""
        # A lost answer leaves it open who wrote: the object tells, as contents of locks differ.
        try:
            call(self.url, lambda fs: fs.pipe_file(self.url, content, mode="create"))
        except FileExistsError:
            return self.read_bytes() == content
        return True

    def replace_if(self, content: bytes, stamp: str) -> bool:
        """Writes an object in place of the one that has a stamp (see `Status`); returns False if it has another, or is gone."""
        bucket, _, key = self.url.partition("://")[2].partition("/")

        def write_if_unchanged(fs):
            """Asks the store to write on the condition that the stamp is still the object's."""
            if self.url.startswith("s3://"):
                return fs.pipe_file(self.url, content, IfMatch=f'"{stamp}"')
            # In two parts, as gcsfs itself uploads: the emulator of the tests heeds no condition of an upload in one.
            kinds = "Content-Type: application/json; charset=UTF-8", "Content-Type: application/octet-stream"
            name = json.dumps({"name": key})
            body = f"--part\r\n{kinds[0]}\r\n\r\n{name}\r\n--part\r\n{kinds[1]}\r\n\r\n".encode() + content + b"\r\n--part--"
            headers = {"Content-Type": 'multipart/related; boundary="part"'}
            url = f"{fs._location}/upload/storage/v1/b/{bucket}/o"
            return fs.call("POST", url, uploadType="multipart", ifGenerationMatch=stamp, headers=headers, data=body)

        try:
            call(self.url, write_if_unchanged)
        except (FileExistsError, FileNotFoundError):
            return self.is_file() and self.read_bytes() == content
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes an object."""
        try:
            call(self.url, lambda fs: fs.rm_file(self.url))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "RemotePath") -> "RemotePath":
        """Moves an object, or every one below the folder to below another, which is not atomic: copies first, and deletes afterwards."""
        copies = {self: target} if self.is_file() else {path: target / path.relative_to(self) for path in self.files()}
        for path, copy in copies.items():
            path._copy(copy)
        for path in copies:
            path.unlink(missing_ok=True)
        return target

    def _copy(self, target: "RemotePath") -> None:
        call(self.url, lambda fs: fs.cp_file(self.url, target.url))

    def remove_tree(self) -> None:
        """Deletes every object below the folder."""
        for path in self.files():
            path.unlink(missing_ok=True)


def status_of_info(info: dict) -> Status:
    """Returns the Status of what fsspec says about an object: by its generation, entity tag, blob or time."""
    names = ("generation", "ETag", "etag", "blob_id", "LastModified", "mtime", "last_commit")
    stamp = next((str(info[name]) for name in names if info.get(name)), "")
    return Status(int(info.get("size") or 0), stamp.strip('"'))
