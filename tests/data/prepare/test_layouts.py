"""Every published layout, read to manifests, and the manifests read back to frames."""

import pathlib

import numpy as np
import pytest

from cvmae.data import decode, pipeline, sources
from cvmae.data.manifest import UNLABELED, read_manifest
from cvmae.data.prepare import Options, prepare
from cvmae.data.prepare.listing import Listing, Video
from tests.data import layouts, videos
from tests.data.configs import small_config
from tests.data.prepare.runs import options, table

LAYOUTS = {
    "ssv2": ("ssv2", layouts.ssv2, {}),
    "ssv2 of the first release": ("ssv2", layouts.ssv2, {"prefix": "something-something-v2-"}),
    "ssv2 with answers, in a folder": ("ssv2", layouts.ssv2, {"answers": True, "videos_in": "20bn-something-something-v2"}),
    "k400 in class folders": ("k400", layouts.kinetics, {"layout": "{split}/{label}/{id}_{start:06d}_{end:06d}.mp4"}),
    "k400 in class_folders": ("k400", layouts.kinetics, {"layout": "{under}/{id}_{start:06d}_{end:06d}.mp4"}),
    "k600 flat": ("k600", layouts.kinetics, {"layout": "{id}.mp4"}),
    "k700 in splits": ("k700", layouts.kinetics, {"layout": "{split}/{id}_{start}_{end}.mp4"}),
    "ucf101": ("ucf101", layouts.ucf101, {}),
    "ucf101 flat": ("ucf101", layouts.ucf101, {"flat": True}),
    "hmdb51": ("hmdb51", layouts.hmdb51, {}),
    "diving48": ("diving48", layouts.diving48, {}),
    "jester": ("jester", layouts.jester, {}),
    "jester without its folder": ("jester", layouts.jester, {"layout": "{}"}),
    "jester as videos": ("jester", layouts.jester, {"layout": "{}.mp4"}),
    "imagenet in class folders": ("imagenet", layouts.imagenet, {}),
    "imagenet of Kaggle": ("imagenet", layouts.imagenet, {"val": "kaggle"}),
    "imagenet with the development kit": ("imagenet", layouts.imagenet, {"val": "devkit"}),
    "folder with splits": ("folder", layouts.folders, {"with_splits": True}),
    "folder": ("folder", layouts.folders, {"with_splits": False}),
}


def run(folder, dataset, **changes):
    """Manifests of a layout, by name."""
    return prepare(options(folder, dataset, **{"check": "none", "val_share": 0.0} | changes))


def content(manifest, split):
    """Sorted pairs (number that the video carries, class name) of a split, by way of the training's own reader."""
    read = read_manifest(manifest, split)
    return sorted(
        (
            videos.number_of(decode.read_frames(entry.path, [0])[0]) // 10,
            read.class_names[entry.label] if entry.label != UNLABELED else "",
        )
        for entry in read.entries
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_becomes_manifests_of_the_right_videos(tmp_path, name):
    dataset, build, how = LAYOUTS[name]
    expected = build(tmp_path, **how)
    manifests = run(tmp_path, dataset, transcode=32 if dataset == "jester" else 0)
    assert list(manifests) == list(expected)
    assert table(tmp_path / "out" / "report.csv") == [["path", "problem", "detail"]]
    for manifest, rows in expected.items():
        read = table(manifests[manifest])
        assert read[0] == ["path", "label", "split"]
        assert not any(pathlib.PurePath(path).is_absolute() or ".." in path for path, *_ in read[1:])
        for split in {split for _, _, split in rows}:
            wanted = sorted((number, label) for number, label, its_split in rows if its_split == split)
            assert content(manifests[manifest], split) == wanted, (manifest, split)


def test_the_loader_reads_a_manifest_where_it_lies(tmp_path, monkeypatch):
    layouts.hmdb51(tmp_path)
    manifests = run(tmp_path, "hmdb51", check="quick")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = small_config(
        data__source="files", data__manifest=manifests["split2"], data__frame_size=(32, 64), data__split="train", batch_size=3
    )
    with pipeline.make_loader(config, sources.make_source(config.data, "train")) as loader:
        batch = next(loader)
        assert not np.asarray(batch["failures"]).any()
        assert sorted(batch["label"]) == [0, 1, 2]
        for video, label in zip(batch["video"], batch["label"]):
            assert videos.number_of(video[0]) // 30 == label  # three videos of each class, ten numbers each


@pytest.mark.parametrize("dataset", ["ssv2", "ucf101", "hmdb51"])
def test_every_manifest_has_the_official_numbers_also_without_a_class(tmp_path, dataset):
    expected = getattr(layouts, dataset)(tmp_path)
    classes = {"ssv2": sorted(layouts.SSV2_TEMPLATES, key=layouts.SSV2_TEMPLATES.get), "ucf101": list(layouts.UCF_CLASSES)}
    classes = classes.get(dataset, list(layouts.HMDB_CLASSES))
    for path in (tmp_path / "videos").rglob("*9.webm" if dataset == "ssv2" else f"*{classes[0]}*.avi"):
        path.unlink()  # no video of class 0 is left
    manifests = run(tmp_path, dataset)
    assert table(tmp_path / "out" / "classes.csv") == [["number", "name"], *([str(i), name] for i, name in enumerate(classes))]
    for manifest, rows in expected.items():
        read = read_manifest(manifests[manifest], "train")
        assert read.class_names == tuple(classes)
        labels = [classes.index(label) for _, label, split in rows if split == "train" and label != classes[0]]
        assert [entry.label for entry in read.entries] == labels and labels


def test_folder_draws_splits_that_stay(tmp_path):
    for number in range(100):
        layouts.put(tmp_path / "videos" / "wave" / f"{number}.mp4", 0)
    first = {path: split for path, _, split in table(run(tmp_path, "folder", val_share=0.4)["manifest"])[1:]}
    assert 25 <= list(first.values()).count("val") <= 55
    other = {path: split for path, _, split in table(run(tmp_path, "folder", val_share=0.4, seed=1)["manifest"])[1:]}
    assert first.keys() == other.keys() and first != other
    (tmp_path / "videos" / "wave" / "7.mp4").unlink()
    layouts.put(tmp_path / "videos" / "jump" / "new.mp4", 0)
    again = {path: split for path, _, split in table(run(tmp_path, "folder", val_share=0.4)["manifest"])[1:]}
    assert len(again) == 100 and all(again[path] == split for path, split in first.items() if not path.endswith("/7.mp4"))


def test_videos_right_in_the_folder_have_no_class(tmp_path):
    layouts.put(tmp_path / "videos" / "a.mp4", 0)
    layouts.put(tmp_path / "videos" / "train" / "b.mp4", 1)  # a class that is called train, since a.mp4 is in no split
    rows = table(run(tmp_path, "folder")["manifest"])
    assert rows[1:] == [["videos/a.mp4", "", "train"], ["videos/train/b.mp4", "train", "train"]]


def test_a_kinetics_file_that_was_not_cut_is_used_in_its_part(tmp_path):
    layouts.kinetics(tmp_path, "{id}.mp4")
    videos.write_video(tmp_path / "videos" / "_dbcJuKJQNs.mp4", 54, fps=1)  # 54 s; its part is 40 to 50
    videos.write_video(tmp_path / "videos" / "abc_000001_x.mp4", 11, fps=1)  # its part is 0 to 10: cut with a second to spare
    videos.write_video(tmp_path / "videos" / "-3B32lodo2M.mp4", 30, fps=1)  # its part is 59 to 69
    manifests = run(tmp_path, "k400")
    rows = table(manifests["manifest"])
    assert rows[0] == ["path", "label", "split", "start", "end"]
    assert ["videos/_dbcJuKJQNs.mp4", "air drumming", "train", "40", "50"] in rows
    assert ["videos/abc_000001_x.mp4", "massaging person's head", "val", "", ""] in rows
    report = table(tmp_path / "out" / "report.csv")[1:]
    assert report == [["-3B32lodo2M.mp4", "too short", "it lasts 30.0 s, its part starts at 59 s"]]
    (entry,) = read_manifest(manifests["manifest"], "train").entries
    assert (entry.start, entry.end) == (40.0, 50.0)


def test_a_file_in_the_class_is_preferred_and_doubt_is_reported(tmp_path):
    layouts.kinetics(tmp_path, "{split}/{under}/{id}_{start:06d}_{end:06d}.mp4")
    cut = "_dbcJuKJQNs_000040_000050.mp4"
    layouts.put(tmp_path / "videos" / "a" / cut, 9)  # comes first, but is not in a folder of the class
    layouts.put(tmp_path / "videos" / "train" / "-3B32lodo2M.mp4", 9)  # less specific than the cut one
    rows = table(run(tmp_path, "k400")["manifest"])
    assert [f"videos/train/air_drumming/{cut}", "air drumming", "train"] in rows
    assert table(tmp_path / "out" / "report.csv")[1:] == []
    layouts.put(tmp_path / "videos" / "copy" / "train" / "air drumming" / cut, 9)
    run(tmp_path, "k400")
    ((path, problem, detail),) = table(tmp_path / "out" / "report.csv")[1:]
    assert problem == "ambiguous" and path.startswith("copy/train") and "train/air_drumming" in detail


def test_a_single_kinetics_file_with_all_splits(tmp_path):
    layouts.kinetics(tmp_path, "{id}.mp4")
    row = "air drumming,_dbcJuKJQNs,40,50,val,0\n"
    layouts.write(tmp_path / "all.csv", "label,youtube_id,time_start,time_end,split,is_cc\n" + row + row)
    prepare(Options("k400", str(tmp_path / "videos"), str(tmp_path / "out"), str(tmp_path / "all.csv"), check="none"))
    assert table(tmp_path / "out" / "manifest.csv")[1:] == [["videos/_dbcJuKJQNs.mp4", "air drumming", "val"]]
    ((path, problem, detail),) = table(tmp_path / "out" / "report.csv")[1:]
    assert (path, problem) == ("_dbcJuKJQNs_000040_000050.mp4", "listed twice")
    assert "all.csv:3, first in " in detail and detail.endswith("all.csv:2; the first counts")
    layouts.write(tmp_path / "all.csv", "label,youtube_id,time_start,time_end,split,is_cc\n" + row + row.replace("val", "train"))
    prepare(Options("k400", str(tmp_path / "videos"), str(tmp_path / "out"), str(tmp_path / "all.csv"), check="none"))
    ((path, problem, detail),) = table(tmp_path / "out" / "report.csv")[1:]
    assert problem == "in two splits" and detail.endswith("all.csv:2: val and train; it stays in val")
    assert table(tmp_path / "out" / "manifest.csv")[1:] == [["videos/_dbcJuKJQNs.mp4", "air drumming", "val"]]


def test_a_video_with_two_labels_in_two_splits_has_both_problems():
    listing = Listing(("a", "b"), {"manifest": []})
    for split, label, where in (("train", "a", "x:1"), ("val", "b", "y:1"), ("test", "", "z:1")):
        listing.add("manifest", split, Video("v.mp4", label, ("v",)), where)
    assert listing.manifests == {"manifest": [("v.mp4", "train")]} and listing.repeats == [
        ("v.mp4", "in two splits", "y:1, first in x:1: train and val; it stays in train"),
        ("v.mp4", "two labels", "y:1, first in x:1: 'a' and 'b'; the first counts"),
        ("v.mp4", "in two splits", "z:1, first in x:1: train and test; it stays in train"),
    ]
