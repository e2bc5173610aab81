"""Folders of videos, in which the names of folders are splits and classes: which are which, and what is refused."""

import pytest

from cvmae.data.prepare.labels import folder
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import VideoFiles


def listed(root, *paths):
    """Returns the listing of empty files, which are told by their suffix."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return folder.read(VideoFiles(str(root)))


@pytest.mark.parametrize("train, val", [("train", "val"), ("Train", "Val"), ("TRAIN", "Validation"), ("training", "testing")])
def test_splits_are_found_in_any_case(tmp_path, train, val):
    listing = listed(tmp_path, f"{train}/a/x.mp4", f"{val}/b/x.mp4")
    assert listing.classes == ("a", "b") and not listing.is_undrawn and not listing.remarks
    assert dict(listing.manifests["manifest"])[f"{train}/a/x.mp4"] == "train"
    assert dict(listing.manifests["manifest"])[f"{val}/b/x.mp4"] == ("test" if val == "testing" else "val")


@pytest.mark.parametrize(
    "other, named",
    [("extra/x.mp4", "extra"), ("extra/a/x.mp4", "extra"), ("loose.mp4", "loose.mp4"), ("a/x.mp4", "a")],
)
@pytest.mark.parametrize("splits", [("train/a/x.mp4", "val/b/x.mp4"), ("Train/a/x.mp4",), ("train/x.mp4", "val/x.mp4")])
def test_splits_beside_something_else_are_refused(tmp_path, splits, other, named):
    with pytest.raises(
        PrepareError, match=rf"folders of splits \((t|T)rain(, val)?\) and beside them {named}, .*expected VIDEOS/CLASS"
    ):
        listed(tmp_path, *splits, other)


def test_splits_within_classes_are_refused(tmp_path):
    with pytest.raises(PrepareError, match=r"splits within classes, such as (a|b)/train/[xy].mp4; .*move the splits above"):
        listed(tmp_path, "a/train/x.mp4", "a/val/x.mp4", "b/train/y.mp4")


def test_a_class_that_is_called_like_a_split_is_said(tmp_path):
    listing = listed(tmp_path, "car/x.mp4", "train/y.mp4")
    assert listing.classes == ("car", "train") and listing.is_undrawn
    assert [remark[:2] for remark in listing.remarks] == [("train", "class like a split")]


def test_videos_without_a_class_among_classes_are_said(tmp_path):
    listing = listed(tmp_path / "drawn", "a/x.mp4", "b/x.mp4", "loose.mp4")
    assert [remark[:2] for remark in listing.remarks] == [("loose.mp4", "no class")]
    listing = listed(tmp_path / "split", "train/a/x.mp4", "val/y.mp4", "test/z.mp4")
    assert [remark[:2] for remark in listing.remarks] == [("val/y.mp4", "no class")]
    assert not listed(tmp_path / "unlabeled", "x.mp4", "y.mp4").remarks


def test_a_class_whose_accents_are_written_in_two_ways_is_one(tmp_path):
    listing = listed(tmp_path, "caf\u00e9/x.mp4", "cafe\u0301/y.mp4", "tea/z.mp4")
    assert listing.classes == ("caf\u00e9", "tea")
    assert sorted(video.label for video in listing.videos.values()) == ["caf\u00e9", "caf\u00e9", "tea"]
