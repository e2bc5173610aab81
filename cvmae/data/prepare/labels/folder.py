"""A plain folder: the name of the folder that a video lies in is its class."""

from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import VideoFiles

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUTS = "VIDEOS/CLASS/*.mp4 or VIDEOS/{train,val,test}/CLASS/*.mp4"


def read(files: VideoFiles) -> Listing:
    """Lists the videos of a folder; the listing `is_undrawn` if its top folders are no splits.

    Videos right in the folder, or in that of a split, have no class. Raises: PrepareError.
    """
    if not files.paths:
        raise PrepareError(f"--videos has no video file in it; expected {_LAYOUTS}")
    tops = {path.split("/")[0] for path in files.paths if "/" in path}
    has_splits = bool(tops) and tops <= set(SPLITS) and all("/" in path for path in files.paths)
    found = []
    for path in files.paths:
        parts = path.split("/")[:-1]
        split = SPLITS[parts.pop(0)] if has_splits else ""
        found.append((path, parts[0].strip() if parts else "", split))
    listing = Listing(tuple(sorted({label for _, label, _ in found if label})), {"manifest": []}, is_undrawn=not has_splits)
    for path, label, split in found:
        listing.add("manifest", split, Video(path, label, ()), path)
    return listing
