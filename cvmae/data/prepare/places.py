"""Paths of files in OUT, and the check that nothing is ever written to --videos."""

import collections
import os
import pathlib
from collections.abc import Iterable

from cvmae.data.prepare.state import FOLDER
from cvmae.data.prepare.text import PrepareError
from cvmae.storage.path import as_path, exists, is_remote, join, one_names

_LINK, _PACKED = "videos", "packed"


def check_places(videos: str, out: str, side: int, pack: bool) -> None:
    """Checks the folders of a run. Raises: PrepareError if --videos is no folder, or if the run would write into it; OSError of a bucket."""
    if is_remote(out) and (side or pack):
        option = f"--transcode={side}" if side else "--pack"
        raise PrepareError(f"{option} writes to a local folder, not to --out={out}: give a local --out, and copy what is written")
    if is_remote(out):
        exists(join(out, "manifest.csv"))  # a bucket that does not answer is an error before all videos are checked, not after
    if is_remote(videos) or is_remote(out):
        if not is_remote(videos) and not os.path.isdir(videos):
            raise PrepareError(f"{videos}: not a folder; --videos is the folder with the videos")
        return  # `prepare` writes tables to a bucket, and nothing below --videos
    if not os.path.isdir(videos):
        raise PrepareError(f"{videos}: not a folder; --videos is the folder with the videos")
    if _inside(out, videos):
        raise PrepareError(f"--out={out} lies in --videos={videos}, which is never written to; take a folder outside of it")
    written = [FOLDER, *([_transcoded(side)] if side else []), *([_PACKED] if pack else [])]
    for name in written:
        if _inside(videos, os.path.join(out, name)):
            raise PrepareError(f"--videos={videos} lies in {os.path.join(out, name)}, which is written to; take another --out")


def reach(videos: str, out: str) -> str:
    """Returns the path of `videos` relative to the folder `out`: its own if it lies inside, else that of a link `videos`.

    The link is made here. With it, paths in manifests do not depend on where the videos lie on this machine, and if they move,
    only the link changes. If there can be no link (a file system without links, another file of this name), the path is a
    relative one that leads out of the folder. Of videos in a bucket it is their path there, relative where `out` is a folder above them.
    """
    if is_remote(videos):
        below = f"{as_path(out)}/"
        return str(as_path(videos)).removeprefix(below)
    if is_remote(out):
        return os.path.realpath(videos)
    direct = os.path.relpath(os.path.realpath(videos), os.path.realpath(out))
    link = os.path.join(out, _LINK)
    if not direct.startswith(os.pardir) or (os.path.lexists(link) and not os.path.islink(link)):
        return pathlib.PurePath(direct).as_posix()
    temporary = os.path.join(out, FOLDER, "link")
    try:
        if os.path.lexists(temporary):
            os.remove(temporary)
        os.symlink(os.path.realpath(videos), temporary, target_is_directory=True)
        os.replace(temporary, link)
    except OSError:  # a file system without links
        return pathlib.PurePath(direct).as_posix()
    return _LINK


def targets(side: int, paths: Iterable[str]) -> dict[str, str]:
    """Returns the path in OUT of the re-encoded file for each path below --videos: the same subfolder and name, as .mp4.

    Files whose names differ only in the extension keep it before the new one (a.webm.mp4).
    """
    paths = set(paths)
    stems = collections.Counter(os.path.splitext(path)[0] for path in paths)
    unique = {path: os.path.splitext(path)[0] if stems[os.path.splitext(path)[0]] == 1 else path for path in paths}
    return {path: f"{_transcoded(side)}/{stem}.mp4" for path, stem in unique.items()}


def same_files(videos: str, paths: Iterable[str]) -> dict[str, str]:
    """Returns the path below `videos` that stands for each of `paths`: the first one of the same file, through whatever links."""
    files = {path: os.path.abspath(os.path.join(videos, path)) for path in paths}
    names = one_names(files.values())
    first: dict[str, str] = {}
    return {path: first.setdefault(names[file], path) for path, file in files.items()}


def packed(out: str, manifest: str, of: int) -> str:
    """Returns the folder of the packed set of a manifest; `of` is the number of manifests."""
    top = os.path.join(os.path.abspath(out), _PACKED)
    return os.path.join(top, manifest) if of > 1 else top


def _transcoded(side):
    return f"videos{side}"


def _inside(path, folder):
    """Returns True if path is `folder` or lies in it; links are followed, and neither has to exist."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder
