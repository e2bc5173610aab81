"""Processing of a single video file, in any process: examine it, decode some or all frames, or re-encode it."""

import os
import platform
from typing import BinaryIO

import av

from cvmae.data.decode import DecodeError, read_frames, read_table
from cvmae.data.frame_table import FrameTable
from cvmae.data.prepare.frame_folders import folder_identity
from cvmae.data.prepare.transcode import numbered_frames, transcode, transcode_frames
from cvmae.storage.path import check_regular, is_remote
from cvmae.storage.remote_path import RemotePath

CHECKS = ("full", "quick", "none")
_HEAD = 4096
_TOLERATED = 1.01  # times its size, since some headers are wrong by a few bytes
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
FUNCTION = f"{__name__}:process"


def make_job(path: str, check: str, *, side: int = 0, target: str = "", temporary: str = "", measure: bool = False) -> dict:
    """Returns a job for `process`.

    Args:
      path: of the video, or of a folder of frames, which needs `side`.
      check: "full" decodes every frame, "quick" the first, middle and last, "none" nothing.
      side: above 0, the video is re-encoded to `target` with this shorter side in pixels (see transcode), which decodes
        every frame whatever `check` is.
      target: path of the re-encoded file.
      temporary: folder for incomplete files.
      measure: True if the length is needed even when nothing is checked.
    """
    return {"path": path, "check": check, "side": side, "target": target, "temporary": temporary, "measure": measure}


def needs_decoder(job: dict) -> bool:
    """Returns False if the file system alone answers the job."""
    return bool(job["check"] != "none" or job["side"] or job["measure"])


def process(job: dict) -> dict:
    """Processes the file of a job.

    Returns:
      {problem, detail, frames, seconds, file, cut}. problem: "", "unreadable", "empty" or "undecodable"; detail: its description.
      frames, seconds: length of the video, 0 if it was not decoded. file: `identity` of the video before it was processed.
      cut: what its header announces and it lacks, "" for nothing; all that is there can be read.

    Raises:
      StopRun: the cause of an error is not the file.
    """
    file = identity(job["path"])
    answer = {"problem": "", "detail": "", "frames": 0, "seconds": 0.0, "file": file, "cut": ""}
    if file is None:
        return answer | {"problem": "unreadable", "detail": "no such file, or no right to read it"}
    if not (is_remote(job["path"]) or os.path.isdir(job["path"])):  # a folder of frames
        try:
            check_regular(job["path"])
        except OSError as error:
            return answer | {"problem": "unreadable", "detail": error.strerror}
    if not file[0]:
        detail = "the file has 0 bytes"
        if os.path.isdir(job["path"]):
            detail = "the files in the folder have 0 bytes" if any(os.scandir(job["path"])) else "the folder has no frames"
        return answer | {"problem": "empty", "detail": detail}
    if not needs_decoder(job):
        return answer
    av.logging.set_level(av.logging.PANIC)  # messages of codecs are in the exceptions already
    try:
        table = _decode(job)
    except DecodeError as error:
        cut = _cut(job["path"], None)
        return answer | {"problem": "undecodable", "detail": error.reason + (cut and f"; {cut}")}
    lasts = float(table.times[-1] + 1 / table.fps)
    return answer | {"frames": len(table), "seconds": lasts, "cut": _cut(job["path"], len(table))}


def _cut(path: str, frames: int | None) -> str:
    """Returns `cut` of the answer for a local file of AVI, Matroska or WebM; "" for other files, whose headers give no size.

    Args:
      path: of the video.
      frames: that it has; None where they are not known.
    """
    if is_remote(path) or not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(_HEAD)
        announced = _riff_bytes(file, size) if head.startswith(b"RIFF") else _matroska_bytes(head)
    if announced <= _TOLERATED * size:
        return ""
    main = head.find(b"avih")  # the main header of AVI, with the number of frames in its fifth field
    total = int.from_bytes(head[main + 24 : main + 28], "little") if main >= 0 else 0
    of_frames = f", {frames:,} of {total:,} frames" if frames is not None and total > frames else ""
    return f"the file has {size:,} of the {announced:,} bytes that its header announces{of_frames}"


def _riff_bytes(file: BinaryIO, size: int) -> int:
    """Returns the end of the RIFF chunks of a file, of which a large AVI has several."""
    end = 0
    while end < size:
        file.seek(end)
        chunk = file.read(8)
        if not chunk.startswith(b"RIFF"):
            break
        end += 8 + int.from_bytes(chunk[4:8], "little")
    return end


def _matroska_bytes(head: bytes) -> int:
    """Returns the end of the segment of a Matroska file; 0 for another file, and where the size was not known when it was written."""
    if not head.startswith(_EBML):
        return 0
    length, at = _vint(head, len(_EBML))
    start = at + length
    if head[start : start + len(_SEGMENT)] != _SEGMENT:
        return 0
    length, at = _vint(head, start + len(_SEGMENT))
    return at + length if length else 0


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number of variable length at a position of EBML, 0 where it stands for an unknown one, and the position behind it."""
    count = 9 - data[at].bit_length() if at < len(data) and data[at] else 1
    bits = 7 * count
    number = int.from_bytes(data[at : at + count], "big") & ((1 << bits) - 1)
    return (0 if number == (1 << bits) - 1 else number), at + count


def identity(path: str) -> list | None:
    """Returns [size in bytes, modification time in ns, or of a file in a bucket its stamp], by which a changed file is recognized; None without a file."""
    try:
        if is_remote(path):
            return list(RemotePath(path).status())
        if os.path.isdir(path):
            return folder_identity(path)
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _decode(job) -> FrameTable:
    """Checks or re-encodes the video of a job; returns the frame table of the video, or of the re-encoded file."""
    path = job["path"]
    if job["side"]:
        temporary = os.path.join(job["temporary"], f"{platform.node()}-{os.getpid()}.mp4")
        write = transcode_frames if os.path.isdir(path) else transcode
        return write(path, job["target"], job["side"], temporary)
    table = read_table(path)
    if job["check"] == "quick":
        for index in sorted({0, len(table) // 2, len(table) - 1}):
            read_frames(path, [index], table=table)  # singly, since one call would also decode the frames between them
    elif job["check"] == "full":
        count = sum(1 for _ in numbered_frames(path, table))
        if count < len(table):
            raise DecodeError(path, f"{count} frames of {len(table)} have a picture; --transcode repeats the ones before")
    return table
