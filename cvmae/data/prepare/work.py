"""Processing of a single video file, in any process: examine it, decode some or all frames, or re-encode it."""

import os
import platform

import av

from cvmae.data.decode import DecodeError, each_frame, read_frames, read_table
from cvmae.data.frame_table import FrameTable
from cvmae.data.prepare.frame_folders import folder_identity
from cvmae.data.prepare.transcode import transcode, transcode_frames
from cvmae.storage.path import check_regular, is_remote
from cvmae.storage.remote_path import RemotePath

CHECKS = ("full", "quick", "none")
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
      {problem, detail, frames, seconds, file}. problem: "", "unreadable", "empty" or "undecodable"; detail: its description.
      frames, seconds: length of the video, 0 if it was not decoded. file: `identity` of the video before it was processed.

    Raises:
      StopRun: the cause of an error is not the file.
    """
    file = identity(job["path"])
    answer = {"problem": "", "detail": "", "frames": 0, "seconds": 0.0, "file": file}
    if file is None:
        return answer | {"problem": "unreadable", "detail": "no such file, or no right to read it"}
    if not (is_remote(job["path"]) or os.path.isdir(job["path"])):  # a folder of frames
        try:
            check_regular(job["path"])
        except OSError as error:
            return answer | {"problem": "unreadable", "detail": error.strerror}
    if not file[0]:
        return answer | {"problem": "empty", "detail": "the file has 0 bytes"}
    if not needs_decoder(job):
        return answer
    av.logging.set_level(av.logging.PANIC)  # messages of codecs are in the exceptions already
    try:
        table = _decode(job)
    except DecodeError as error:
        return answer | {"problem": "undecodable", "detail": error.reason}
    return answer | {"frames": len(table), "seconds": float(table.times[-1] + 1 / table.fps)}


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
        count = sum(1 for _ in each_frame(path))
        if count != len(table):
            raise DecodeError(path, f"{count} frames of {len(table)} have a picture; --transcode repeats the ones before")
    return table
