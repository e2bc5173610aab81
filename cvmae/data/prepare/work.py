"""What is done to one file, in whatever process: look at it, decode some or all of it, or re-encode it."""

import os
import platform

import av

from cvmae.data.decode import DecodeError, each_frame, read_frames, read_table
from cvmae.data.frame_table import FrameTable
from cvmae.data.prepare.transcode import transcode

CHECKS = ("full", "quick", "none")
FUNCTION = f"{__name__}:process"


def job(path: str, check: str, *, side: int = 0, target: str = "", temporary: str = "", measure: bool = False) -> dict:
    """What `process` is asked.

    path: of the video. check: `full` decodes every frame, `quick` the first, middle and last, `none` nothing. side: above 0,
    the video is re-encoded to `target` (see transcode), which decodes every frame whatever `check` says. temporary: a folder.
    measure: the length is wanted, also where nothing is checked.
    """
    return {"path": path, "check": check, "side": side, "target": target, "temporary": temporary, "measure": measure}


def needs_decoder(asked: dict) -> bool:
    """False if the file system can answer."""
    return bool(asked["check"] != "none" or asked["side"] or asked["measure"])


def process(asked: dict) -> dict:
    """Answers a job: {problem, detail, frames, seconds, file}; problem is "", or `unreadable`, `empty` or `undecodable`.

    file: size and time of change of what was looked at, None if there is nothing. Raises: StopRun if the fault is not the file's.
    """
    file = identity(asked["path"])
    found = {"problem": "", "detail": "", "frames": 0, "seconds": 0.0, "file": file}
    if file is None:
        return found | {"problem": "unreadable", "detail": "no such file, or no right to read it"}
    if not file[0]:
        return found | {"problem": "empty", "detail": "the file has 0 bytes"}
    if not needs_decoder(asked):
        return found
    av.logging.set_level(av.logging.PANIC)  # what a codec has to say comes as an error
    try:
        table = _look(asked)
    except DecodeError as error:
        return found | {"problem": "undecodable", "detail": error.reason}
    return found | {"frames": len(table), "seconds": float(table.times[-1] + 1 / table.fps)}


def identity(path: str) -> list[int] | None:
    """What tells a file from what it was before: [size in bytes, time of change in ns]; None if there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns]


def _look(asked) -> FrameTable:
    path = asked["path"]
    if asked["side"]:
        temporary = os.path.join(asked["temporary"], f"{platform.node()}-{os.getpid()}.mp4")
        return transcode(path, asked["target"], asked["side"], temporary)
    table = read_table(path)
    if asked["check"] == "quick":
        for place in sorted({0, len(table) // 2, len(table) - 1}):
            read_frames(path, [place], table=table)  # one by one: what lies between them would be decoded as well
    elif asked["check"] == "full":
        count = sum(1 for _ in each_frame(path))
        if count != len(table):
            raise DecodeError(path, f"{count} frames of {len(table)} have a picture; --transcode repeats the ones before")
    return table
