"""The draw of validation videos: shares of each class, repeated runs, sets of earlier versions, and what is printed."""

import collections
import math

import pytest

from cvmae.data.prepare import Options, PrepareError, outputs, prepare, val_split
from cvmae.data.prepare.listing import Listing
from tests.data import layouts
from tests.data.prepare.runs import options, table

SIZES = {"two": 2, "three": 3, "nine": 9, "ten": 10, "eleven": 11, "many": 97, "single": 1}


def labels_of(sizes):
    return {f"{label}/{number}": label for label, size in sizes.items() for number in range(size)}


def counts_of(labels, splits):
    return {label: collections.Counter(splits[key] for key in labels if labels[key] == label) for label in labels.values()}


@pytest.mark.parametrize("val_share", [0.0, 0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_every_class_has_the_share_and_a_training_video(val_share):
    labels = labels_of(SIZES)
    splits = val_split.draw(labels, val_share, seed=3)
    assert splits.keys() == labels.keys()
    counts = counts_of(labels, splits)
    for label, count in counts.items():
        assert abs(count["val"] - val_share * SIZES[label]) < 1 and count["train"] >= 1, label
    total = sum(count["val"] for count in counts.values())
    most = {label: min(math.ceil(val_share * size), size - 1) for label, size in SIZES.items()}
    assert total == min(max(int(val_share * len(labels) + 0.5), val_share > 0), sum(most.values()))


def test_small_classes_share_what_rounding_leaves():
    labels = labels_of({f"class{number}": 3 for number in range(100)})
    counts = counts_of(labels, val_split.draw(labels, 0.1, seed=0))
    assert sum(count["val"] for count in counts.values()) == 30 and max(count["val"] for count in counts.values()) == 1


def test_a_draw_depends_on_its_arguments_only():
    labels = labels_of(SIZES)
    first = val_split.draw(labels, 0.3, seed=0)
    assert val_split.draw(dict(reversed(labels.items())), 0.3, seed=0) == first
    assert val_split.draw(labels, 0.3, seed=1) != first


def test_videos_without_classes_are_split_too():
    splits = val_split.draw({str(number): "" for number in range(50)}, 0.2, seed=0)
    assert list(splits.values()).count("val") == 10
    assert set(val_split.draw({"a": "", "b": ""}, 0.1, 0).values()) == {"train", "val"}  # one of two, rather than none


def test_earlier_splits_stay_and_new_videos_fill_up():
    labels = labels_of({"wave": 40, "jump": 20})
    first = val_split.draw(labels, 0.25, seed=0)
    gone = {key for key in labels if key.endswith(("3", "5"))}
    grown = {key: label for key, label in (labels | labels_of({"wave": 80, "new": 8})).items() if key not in gone}
    again = val_split.draw(grown, 0.25, seed=0, earlier=first)
    assert all(again[key] == first[key] for key in first.keys() - gone)
    assert [count["val"] for count in counts_of(grown, again).values()] == pytest.approx([17, 4, 2], abs=1)


def put(folder, sizes):
    video = layouts.video_bytes(0)
    for name in labels_of(sizes):
        path = folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video)


def splits_of(folder, **changes):
    manifests = prepare(options(folder, "folder", **{"check": "none", "val_share": 0.25} | changes))
    return {path: split for path, _, split in table(manifests["manifest"])[1:]}


def test_runs_into_one_folder_keep_their_draws(tmp_path, capsys):
    put(tmp_path, {"wave": 40, "jump": 20})
    first = splits_of(tmp_path)
    assert list(first.values()).count("val") == 15 and "keep the split" not in capsys.readouterr().out
    assert splits_of(tmp_path, seed=1) != first
    assert splits_of(tmp_path) == first
    prepare(Options("folder", str(tmp_path / "videos"), str(tmp_path / "other"), check="none", val_share=0.25))
    assert (tmp_path / "other" / "manifest.csv").read_text() == (tmp_path / "out" / "manifest.csv").read_text()
    put(tmp_path, {"wave": 48})
    (tmp_path / "videos" / "jump" / "3.mp4").rename(tmp_path / "videos" / "jump" / "3.webm")  # converted
    capsys.readouterr()
    again = splits_of(tmp_path)
    assert "split: 60 videos keep the split of earlier runs, 8 are new" in capsys.readouterr().out
    assert len(again) == 68 and list(again.values()).count("val") == 17
    assert all(again[path.replace("jump/3.mp4", "jump/3.webm")] == split for path, split in first.items())


def test_broken_videos_are_not_counted_in_the_shares(tmp_path):
    put(tmp_path, {"wave": 12})
    for number in range(8):
        (tmp_path / "videos" / "wave" / f"{number}.mp4").write_bytes(b"")
    assert sorted(splits_of(tmp_path).values()) == ["train"] * 3 + ["val"]


def test_the_draw_of_an_earlier_version_is_kept(tmp_path, capsys):
    put(tmp_path, {"wave": 40, "jump": 20})
    stratified = splits_of(tmp_path)
    (tmp_path / "out" / ".prepare" / "splits.json").unlink()  # such a run has left no such file
    capsys.readouterr()
    older = splits_of(tmp_path)
    assert "manifest.csv is from an earlier version, which drew each video by itself; this is kept" in capsys.readouterr().out
    keys = {path: val_split.split_key(path.removeprefix("videos/")) for path in older}
    assert older == {path: val_split.draw_each([key], 0.25, 0)[key] for path, key in keys.items()} != stratified
    assert splits_of(tmp_path) == older
    (tmp_path / "out" / "manifest.csv").unlink()
    assert splits_of(tmp_path) == stratified


def test_splits_that_cannot_be_read_stop_the_run(tmp_path):
    put(tmp_path, {"wave": 4})
    splits_of(tmp_path)
    (tmp_path / "out" / ".prepare" / "splits.json").write_text("{")
    with pytest.raises(PrepareError, match="splits.json: not JSON .* to draw again"):
        splits_of(tmp_path)


def test_counts_of_few_classes_are_a_table(tmp_path, capsys):
    put(tmp_path, {"wave": 8, "jump": 4, "single": 1})
    splits_of(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[4:9] == [
        "class    train     val",
        "jump         3       1",
        "single       1       0",
        "wave         6       2",
        "no validation videos: single",
    ]


def test_counts_of_many_classes_are_summed_up():
    sizes = {f"c{number:02}": number for number in range(25)}
    labels = labels_of(sizes)
    listing = Listing(tuple(sizes), {"manifest": [(key, "val" if key.endswith("/9") else "train") for key in labels]})
    usable = {key: outputs.Row(key, key, label) for key, label in labels.items()}
    lines = outputs.class_counts(listing, usable).splitlines()
    assert lines[:4] == [
        "videos of each of 25 classes:",
        "  train: min 0, median 11, max 23",
        "  val: min 0, median 1, max 1",
        "  smallest: c00 (0), c01 (1), c02 (2), c03 (3), c04 (4)",
    ]
    assert lines[4:] == ["no training videos: c00", f"no validation videos: {', '.join(list(sizes)[:10])}"]


def test_split_folders_are_counted_but_not_drawn(tmp_path, capsys):
    layouts.folders(tmp_path, with_splits=True)
    prepare(Options("folder", str(tmp_path / "videos"), str(tmp_path / "out"), check="none", val_share=0.5))
    out = capsys.readouterr().out
    assert "no validation videos: run fast" in out and "jump           1       1       0" in out
    assert "none is drawn, so --val_share and --seed do not apply" in out
    assert not (tmp_path / "out" / ".prepare" / "splits.json").exists()
