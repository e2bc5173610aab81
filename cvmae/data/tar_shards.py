"""Videos in tar shards, `data.source=webdataset`: an index beside each shard, and videos read from their bytes in the tar.

A sample is the files of a shard with one key, the path up to the first dot of its last part: `walk/0001.mp4`, `walk/0001.cls`. The
extension says what a file is, as in the webdataset library:

    mp4, webm, avi, ...   the video
    jpg, png, ...         a picture, which is a video of one frame in a sample without a video, where data.pictures asks for it
    cls                   its class number, as text
    json                  an object; `label`, `start` and `end` in seconds are read, the rest is ignored

Where a sample has a `cls` and a `label`, both have to be the same class. Texts (`txt`, captions in the webdataset library) are not read.

Labels may also be names, if a `classes.csv` beside the shards lists them.
"""

import functools
import itertools
import json
import os
import re
import tarfile
from typing import NamedTuple

from cvmae.data.manifest import ManifestError
from cvmae.data.records import why_outside
from cvmae.data.text_files import RepeatedKeyError, parse_json
from cvmae.data.video_files import EXTENSIONS, PICTURES
from cvmae.files import replacing
from cvmae.storage.cache import open_binary
from cvmae.storage.client import raise_of_store
from cvmae.storage.path import as_path, dirname, expand_user, glob, is_remote
from cvmae.storage.remote_path import RemotePath

SUFFIX = ".index.json"
VERSION = 3  # 2: pictures too; 3: both labels of a sample, texts, and no name that leads out of a folder
_BLOCK = 512
_TEXTS = ("txt", "text")
_MAX_SHARDS = 1_000_000  # of a brace pattern


class ShardError(ManifestError):
    """A shard cannot be used; the message names it, the member where there is one, and a remedy."""


class Sample(NamedTuple):
    """A video in a shard, or a picture.

    Attributes:
      key: its name in the shard.
      extension: of the video, with a dot.
      offset, size: bytes of the video in the shard.
      label: text; empty if it is unlabeled.
      start, end: seconds, the part of the video to use; None: from its beginning, to its end.
      json_label: text of the label in its json, where its cls has another text; else empty.
    """

    key: str
    extension: str
    offset: int
    size: int
    label: str = ""
    start: float | None = None
    end: float | None = None
    json_label: str = ""

    @property
    def is_picture(self) -> bool:
        return self.extension in PICTURES


class ShardIndex(NamedTuple):
    """The samples of a shard in its order, the keys of those that have neither a video nor a single picture, and the first text of the others."""

    samples: tuple[Sample, ...]
    without_video: tuple[str, ...]
    text: str = ""


def expand(pattern: str) -> list[str]:
    """Returns the shards of a pattern, in its order; those of `*`, `?` and `[...]` sorted.

    Args:
      pattern: a path with ranges `{000..012}` and lists `{a,b}`, as bash expands them; several are separated by `::`.

    Raises:
      ShardError: a pattern names no file that is there.
    """
    paths: list[str] = []
    listing = functools.cache(lambda folder: RemotePath(folder).listing())  # one request, not one for each shard
    for part in pattern.split("::"):
        for path in _expand_braces(expand_user(part)):
            if re.search(r"[*?\[]", path):
                files = glob(path)
            elif is_remote(path):
                files = [path] if listing(dirname(path)).get(RemotePath(path).name) else []
            else:
                files = [path] if os.path.isfile(path) else []
            if not files:
                raise ShardError(
                    f"{path}: no such shard; data.webdataset.shards is a pattern such as 'DIR/{{split}}-{{0000..0099}}.tar'"
                )
            paths += files
    return paths


def _expand_braces(text: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        return [text]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        low, high = int(span[1]), int(span[2])
        if abs(high - low) >= _MAX_SHARDS:
            raise ShardError(f"{text}: {{{match[1]}}} is {abs(high - low) + 1:,} shards; check the range")
        padded = any(len(bound) > 1 and bound.startswith("0") for bound in span.groups())
        width = max(map(len, span.groups())) if padded else 0
        words = [f"{number:0{width}d}" for number in range(low, high + 1)] or [f"{n:0{width}d}" for n in range(low, high - 1, -1)]
    elif "," in match[1]:
        words = match[1].split(",")
    else:
        raise ShardError(f"{text}: {{{match[1]}}} is no range such as {{000..012}} and no list such as {{a,b}}")
    rests = _expand_braces(text[match.end() :])
    return [text[: match.start()] + word + rest for word, rest in itertools.product(words, rests)]


def load_index(path: str) -> tuple[ShardIndex, str]:
    """Returns the index of a shard, and a note if it could not be kept beside it.

    It is read from `PATH.index.json` where that is of this shard (its size and time), and else made and written there, or not at all.

    Raises:
      ShardError: the shard is broken or cannot be read.
    """
    try:
        stamp = _stamp(path)
    except OSError as error:
        raise_of_store(error)
        raise ShardError(f"{path}: {error.strerror}; check data.webdataset.shards") from error
    try:
        saved = json.loads(as_path(path + SUFFIX).read_text(encoding="utf-8"))
        index = ShardIndex(tuple(Sample(*row) for row in saved["samples"]), tuple(saved["without_video"]), saved["text"])
        if all(saved.get(name) == value for name, value in stamp.items()) or _is_copied(path, saved, stamp, index):
            return index, ""
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it is made below
    index = make_index(path)
    content = stamp | index._asdict()
    try:
        with replacing(path + SUFFIX) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        folder = dirname(path) or "."
        return index, f"{folder}: indices of shards cannot be kept ({error.strerror}) and are made at every start"
    return index, ""


def _stamp(path: str) -> dict:
    """Returns what tells a shard from another version of it. Raises: OSError."""
    if is_remote(path):
        size, stamp = RemotePath(path).status()
        return {"version": VERSION, "bytes": size, "stamp": stamp}
    status = os.stat(path)
    return {"version": VERSION, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_copied(path: str, saved: dict, stamp: dict, index: ShardIndex) -> bool:
    """Returns True where an index was copied into a bucket with its shard: sizes agree, and its last member is where it says."""
    if not is_remote(path) or "mtime_ns" not in saved or any(saved[name] != stamp[name] for name in ("version", "bytes")):
        return False
    last = max(index.samples, key=lambda sample: sample.offset)
    header = RemotePath(path).read_range(last.offset - _BLOCK, last.offset)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == last.size
    except tarfile.TarError:
        return False


def make_index(path: str) -> ShardIndex:
    """Reads the headers of a shard. Raises: ShardError."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    last, end = "", 0
    try:
        with open_binary(path) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            for member in tar:
                last, end = member.name, member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.isdir():
                    continue
                _check_member(path, member, size)
                key, extension = split_name(member.name)
                if extension and extension in members.setdefault(key, {}):
                    raise ShardError(f"{path}: member {member.name} is there twice; keys have to differ within a shard")
                if extension:
                    members[key][extension] = (member.offset_data, member.size)
        with open_binary(path) as file:
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise ShardError(
                    f"{path}: no header and no end after member {last or 'none'}; the shard is damaged: copy or write it again"
                )
            samples = [_sample(path, file, key, files) for key, files in members.items()]
    except tarfile.TarError as error:
        after = f"after member {last}" if last else "at its beginning"
        with open_binary(path) as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        remedy = "unpack gzip, since members are read by their place" if is_gzip else "copy or write it again"
        raise ShardError(f"{path}: no plain tar file {after} ({error}); {remedy}") from error
    except OSError as error:
        raise_of_store(error)
        raise ShardError(f"{path}: {error.strerror or error}; check the disk and data.webdataset.shards") from error
    without = tuple(key for key, sample in zip(members, samples, strict=True) if sample is None)
    names = (f"{sample.key}.{extension}" for sample in filter(None, samples) for extension in members[sample.key])
    text = next((name for name in names if name.rpartition(".")[2] in _TEXTS), "")
    return ShardIndex(tuple(sample for sample in samples if sample is not None), without, text)


def _check_member(path, member, size: int) -> None:
    """Raises ShardError for a member that cannot be read by its place in a shard of `size` bytes, or whose name leads out of a folder."""
    if not member.isreg() or member.issparse():
        raise ShardError(f"{path}: member {member.name} is a link or no plain file; write its content into the shard")
    if member.offset_data + member.size > size:
        raise ShardError(f"{path}: member {member.name} is cut short; the shard is not complete: copy or write it again")
    key, extension = split_name(member.name)
    if extension and (why := why_outside(key)):
        raise ShardError(
            f"{path}: member {member.name!r} {why}, and features are files of these names: write the shard again with "
            "relative names, as tar --create --directory=FOLDER does"
        )


def split_name(name: str) -> tuple[str, str]:
    """Returns the key and the extension, in lower case, of a member; ("", "") for a hidden file.

    Parts of the name that mean nothing, as in `a/./b.mp4` and `a//b.mp4`, are left out of the key; what leads out of a folder stays.
    """
    root = name[: len(name) - len(name.lstrip("/"))]
    folder, slash, file = (root + "/".join(part for part in name.split("/") if part not in ("", "."))).rpartition("/")
    stem, dot, extension = file.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and dot else ("", "")


def _sample(path, file, key, files) -> Sample | None:
    videos = [extension for extension in files if f".{extension.rpartition('.')[2]}" in EXTENSIONS]
    pictures = [extension for extension in files if f".{extension}" in PICTURES]
    if len(videos) > 1:
        raise ShardError(f"{path}: member {key} has several videos, {', '.join(videos)}; leave one in the shard")
    if not videos and len(pictures) != 1:
        return None
    fields = _read_json(path, file, f"{key}.json", files["json"]) if "json" in files else {}
    label, json_label = _labels(path, file, key, files, fields.get("label"))
    start, end = (_seconds(path, f"{key}.json", fields, name) for name in ("start", "end"))
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ShardError(f"{path}: member {key}.json has start {start} and end {end}, not 0 <= start < end; leave them out")
    extension = (videos or pictures)[0]
    offset, size = files[extension]
    return Sample(key, f".{extension.rpartition('.')[2]}", offset, size, label, start, end, json_label)


def _labels(path, file, key, files, in_json) -> tuple[str, str]:
    """Returns the label of a sample, and that of its json where its cls has another text; `in_json`: the value there, None for none."""
    label = _read(path, file, f"{key}.cls", files["cls"]).strip() if "cls" in files else ""
    if isinstance(in_json, (dict, list, bool)):
        if label:
            return label, ""  # something else than a class
        raise ShardError(f"{path}: member {key}.json has label {str(in_json)[:40]}; give one class number or name")
    json_label = "" if in_json is None else str(in_json).strip()
    return (label, json_label) if label and label != json_label else (json_label, "")


def _read(path, file, name, span) -> str:
    offset, size = span
    file.seek(offset)
    try:
        return file.read(size).decode()
    except UnicodeDecodeError as error:
        raise ShardError(f"{path}: member {name} is not UTF-8 text ({error.reason}); write it as text") from error


def _read_json(path, file, name, span) -> dict:
    text = _read(path, file, name, span)
    try:
        fields = parse_json(text)
    except RepeatedKeyError as error:
        raise ShardError(f"{path}: member {name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: member {name} is not JSON ({str(error)[:60]}); write one object") from error
    if not isinstance(fields, dict):
        raise ShardError(f"{path}: member {name} holds {text[:40]!r}; write one object")
    return fields


def _seconds(path, name, fields, field) -> float | None:
    value = fields.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise ShardError(f"{path}: member {name} has {field} {str(value)[:40]!r}; give seconds, or leave it out")
    return float(value)
