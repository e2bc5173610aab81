"""A plain folder: the name of the folder that a video lies in is its class."""

import hashlib

from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import VideoFiles

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUTS = "VIDEOS/CLASS/*.mp4 or VIDEOS/{train,val,test}/CLASS/*.mp4"


def read(files: VideoFiles, val_share: float, seed: int) -> Listing:
    """Videos right in the folder, or in that of a split, have no class.

    Where the top folders are no splits, about `val_share` of the videos go to val: those whose hash with the seed says so, so
    that a video stays where it is when others come or go. Raises: PrepareError.
    """
    if not files.paths:
        raise PrepareError(f"--videos has no video file in it; expected {_LAYOUTS}")
    tops = {path.split("/")[0] for path in files.paths if "/" in path}
    has_splits = bool(tops) and tops <= set(SPLITS) and all("/" in path for path in files.paths)
    found = []
    for path in files.paths:
        parts = path.split("/")[:-1]
        split = SPLITS[parts.pop(0)] if has_splits else _drawn_split(path, val_share, seed)
        found.append((path, parts[0].strip() if parts else "", split))
    listing = Listing(tuple(sorted({label for _, label, _ in found if label})), {"manifest": []})
    for path, label, split in found:
        listing.add("manifest", split, Video(path, label, ()), path)
    return listing


def _drawn_split(path, val_share, seed):
    # Without the extension: the split of a file that was converted is that of the original.
    digest = hashlib.sha256(f"{seed}/{path.rpartition('.')[0]}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
