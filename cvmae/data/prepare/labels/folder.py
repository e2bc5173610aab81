"""Reader of plain folders of videos, in which the name of a video's folder is its class."""

from collections.abc import Iterable

from cvmae.data.label_texts import normal_form
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import VideoFiles

# In lower case, since they are found in any.
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val"}
SPLITS |= {"test": "test", "testing": "test"}
_LAYOUTS = "VIDEOS/CLASS/*.mp4 or VIDEOS/{train,val,test}/CLASS/*.mp4"


def read(files: VideoFiles) -> Listing:
    """Returns the listing of a folder's videos; it `is_undrawn` if the top folders are classes, not splits.

    Videos directly in the folder, or in the folder of a split, have no class.

    Raises: PrepareError if there is no video, or if some folders are splits and others, or videos beside them, are not.
    """
    if not files.paths:
        left_out = files.left_out_text()
        remedy = "; --pictures takes pictures" if files.has_pictures else ""
        raise PrepareError(f"--videos has no video file in it; expected {_LAYOUTS}{left_out and f'; {left_out}'}{remedy}")
    tops = {path.split("/")[0] for path in files.paths if "/" in path}
    has_splits = bool(tops) and all(map(_split, tops)) and all("/" in path for path in files.paths)
    if not has_splits:
        _check_classes(files.paths, tops)
    videos = []
    for path in files.paths:
        parts = path.split("/")[:-1]
        split = _split(parts.pop(0)) if has_splits else ""
        videos.append((path, normal_form(parts[0]) if parts else "", split))
    listing = Listing(tuple(sorted({label for _, label, _ in videos if label})), {"manifest": []}, is_undrawn=not has_splits)
    for path, label, split in videos:
        listing.add("manifest", split, Video(path, label, ()), path)
        if listing.classes and not label and split != "test":  # test sets are published without labels
            listing.remarks.append((path, "no class", "it is in no folder of a class, so its row has no label"))
    if not has_splits:
        listing.remarks += [
            (top, "class like a split", "its videos are a class of this name") for top in sorted(filter(_split, tops))
        ]
    return listing


def _split(name: str) -> str:
    """Returns the split that a folder's name means; "" for another name."""
    return SPLITS.get(name.strip().lower(), "")


def _check_classes(paths: Iterable[str], tops: Iterable[str]) -> None:
    """Raises PrepareError where folders that would be classes are splits: with classes in them, or more than one of them."""
    named = sorted(filter(_split, tops))
    nested = {path.split("/")[0] for path in paths if path.count("/") > 1}
    if len(set(map(_split, named))) > 1 or nested.intersection(named):
        others = sorted(set(tops) - set(named)) or sorted(path for path in paths if "/" not in path)
        raise PrepareError(
            f"--videos has folders of splits ({', '.join(named)}) and beside them {others[0]}, which is in none: move it into one or "
            f"away, or rename folders that are classes; expected {_LAYOUTS}"
        )
    inner = {_split(path.split("/")[1]): path for path in paths if path.count("/") > 1}
    if len(inner.keys() - {""}) > 1:
        path = next(inner[split] for split in ("train", "val", "test") if split in inner)
        raise PrepareError(
            f"--videos has splits within classes, such as {path}; expected {_LAYOUTS}, so move the splits above the classes"
        )
