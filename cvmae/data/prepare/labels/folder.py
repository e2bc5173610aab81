"""Reader of plain folders of videos, in which the name of a video's folder is its class."""

from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import VideoFiles

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUTS = "VIDEOS/CLASS/*.mp4 or VIDEOS/{train,val,test}/CLASS/*.mp4"


def read(files: VideoFiles) -> Listing:
    """Returns the listing of a folder's videos; it `is_undrawn` if the top folders are classes, not splits.

    Videos directly in the folder, or in the folder of a split, have no class. Raises: PrepareError if there is no video.
    """
    if not files.paths:
        left_out = files.left_out_text()
        remedy = "; --pictures takes pictures" if files.has_pictures else ""
        raise PrepareError(f"--videos has no video file in it; expected {_LAYOUTS}{left_out and f'; {left_out}'}{remedy}")
    tops = {path.split("/")[0] for path in files.paths if "/" in path}
    has_splits = bool(tops) and tops <= set(SPLITS) and all("/" in path for path in files.paths)
    videos = []
    for path in files.paths:
        parts = path.split("/")[:-1]
        split = SPLITS[parts.pop(0)] if has_splits else ""
        videos.append((path, parts[0].strip() if parts else "", split))
    listing = Listing(tuple(sorted({label for _, label, _ in videos if label})), {"manifest": []}, is_undrawn=not has_splits)
    for path, label, split in videos:
        listing.add("manifest", split, Video(path, label, ()), path)
    return listing
