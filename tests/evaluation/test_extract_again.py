"""Extraction into a folder that has features: what changed since is made again, and the report and the index are of the folder as it is."""

import csv
import errno
import json
import os
import pathlib
import shutil
import tarfile
import zipfile

import jax
import numpy as np
import pytest

from cvmae.data.records import Record
from cvmae.data.sources import make_source
from cvmae.evaluation import extract, feature_shards
from cvmae.evaluation.extract import extract_features
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.feature_writing import Writing
from cvmae.evaluation.features import FeatureSpec, make_encode
from cvmae.models.build import build_encoder, video_grid
from cvmae.storage.remote_path import RemotePath
from tests.data import videos
from tests.servers import serving, upload
from tests.tiny_configs import config

HEADER = "path,label,split,start,end"
ROWS = ["a.mp4,0,val,,", "b.mp4,1,val,,", "c.mp4,2,val,,", "d.mp4,0,val,,", "e.mp4,1,val,0,0.3"]
FORMATS = ["npz", "array_record", "npy"]
ZERO = dict.fromkeys(("written", "rewritten", "skipped", "unreadable", "not_in_source"), 0)


@pytest.fixture(scope="module")
def encoder():
    """Parameters, and a compiled function that all runs share."""
    c = config()
    module = build_encoder(c, c.video_branch, video_grid(c))
    params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]
    return params, make_encode(c)


@pytest.fixture
def extracted(encoder, tmp_path, monkeypatch):
    """Returns a function that writes a manifest of some rows, extracts into a folder, and returns the counts without bytes."""
    params, encode = encoder
    monkeypatch.setattr(extract, "make_encode", lambda *_: encode)
    (tmp_path / "v").mkdir(exist_ok=True)
    for number, name in enumerate("abcde"):
        videos.write_video(tmp_path / "v" / f"{name}.mp4", 8, first=10 * number)
    (tmp_path / "v" / "classes.csv").write_text("number,name\n0,x\n1,y\n2,z\n")

    def run(rows, out="out", format="npz", source=None, **changes):
        manifest = tmp_path / "v" / "list.csv"
        manifest.write_text("\n".join([HEADER, *rows]))
        fields = {"data__source": "files", "data__manifest": str(manifest), "data__max_bad_fraction": 0.5, "batch_size": 4}
        c = config(**(fields | changes))
        folder = out if "://" in str(out) else tmp_path / out
        source = source or make_source(c.data, "val")
        counts = extract_features(c, params, source, folder, FeatureSpec(), format=format)
        assert counts["videos"] == len(source) == sum(counts[key] for key in ("written", "rewritten", "skipped", "unreadable"))
        del counts["bytes"]
        return counts

    return run


def contents(folder):
    """What a reader gets of a folder: {name: arrays}; of npy files by their lines of the index."""
    with open(folder / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if not (folder / "features.json").exists():
        assert [row["name"] for row in rows] == list(FeatureFolder(folder))
        return dict(FeatureFolder(folder))
    sequences = {row["name"]: (folder / row["file"]) for row in rows}
    beside = {name: json.loads(path.with_suffix(".json").read_text()) for name, path in sequences.items()}
    assert all(text["path"] == name for name, text in beside.items())
    return {name: {"features": np.load(path), "label": np.array(beside[name]["label"])} for name, path in sequences.items()}


def assert_same(one, other):
    assert list(one) == list(other) and one
    for name in one:
        for key in one[name]:
            np.testing.assert_allclose(one[name][key], other[name][key], atol=1e-5) if key == "features" else (
                np.testing.assert_array_equal(one[name][key], other[name][key])
            )


def replace(tmp_path, name, **options):
    """Puts another video in the place of one, of the same length, whose time is not looked at by a clock."""
    path = tmp_path / "v" / name
    before = path.stat().st_mtime_ns
    videos.write_video(path, 8, **({"first": 90} | options))
    os.utime(path, ns=(before + 1, before + 1))


@pytest.mark.parametrize("format", FORMATS)
def test_what_changed_is_made_again_and_the_rest_stays(extracted, tmp_path, format, capsys, monkeypatch):
    monkeypatch.setattr(feature_shards.RecordFiles.__init__, "__defaults__", (2,))
    assert extracted(ROWS, format=format) == ZERO | {"videos": 5, "written": 5, "windows": 9}
    before = contents(tmp_path / "out")
    assert extracted(ROWS, format=format) == ZERO | {"videos": 5, "skipped": 5, "windows": 9}
    assert capsys.readouterr().err == ""
    replace(tmp_path, "c.mp4")
    now = ["a.mp4,2,val,,", "b.mp4,1,val,,", "c.mp4,2,val,,", "e.mp4,1,val,0,0.2"]
    expected = ZERO | {"videos": 4, "written": 1, "rewritten": 2, "skipped": 1, "windows": 7, "not_in_source": 2}
    assert extracted(now, format=format) == expected
    said = capsys.readouterr().err
    assert (
        "features of 2 of 4 videos are recomputed: 1 for other labels, such as a.mp4; 1 for videos that were replaced (another size or time of the file, or another content)"
        in said
    )
    beyond = {"npz": "d.mp4.npz, e.mp4@0.0-0.3.npz", "array_record": "d.mp4, e.mp4@0.0-0.3", "npy": "d.npy, e@0.0-0.3.npy"}[
        format
    ]
    assert f"not in this split of the data (any more): 2, such as {beyond}; they stay" in said
    extracted(now, "fresh", format=format)
    after = contents(tmp_path / "out")
    assert_same(after, contents(tmp_path / "fresh"))
    assert np.abs(after["c.mp4"]["features"] - before["c.mp4"]["features"]).max() > 1e-3
    assert after["a.mp4"]["label"] == 2 and before["a.mp4"]["label"] == 0
    assert extracted(now, format=format) == ZERO | {"videos": 4, "skipped": 4, "windows": 7, "not_in_source": 2}
    # What is not in the manifest is still there, and counts again where it is.
    assert extracted(ROWS, format=format)["skipped"] == 4
    if format == "array_record":  # who reads shards by their lists meets every video once
        names = [row.name for shard in feature_shards.shards_of(tmp_path / "out") for row in feature_shards.read_shard(shard)[0]]
        assert names.count("") == 3 and all(names.count(name) == 1 for name in names if name)
    leftovers = [path.name for path in (tmp_path / "out").rglob("*") if path.suffix in (".tmp", ".waiting", ".outdated")]
    assert not leftovers


@pytest.mark.parametrize("format", FORMATS)
def test_a_kill_at_any_moment_leaves_nothing_wrong(extracted, tmp_path, format, monkeypatch):
    """Every renaming is a moment at which the process ends, and nothing of it runs on."""

    class Killed(BaseException):
        pass

    rows, now = ROWS[:3], ["a.mp4,2,val,,", "b.mp4,1,val,,", "c.mp4,2,val,,"]
    extracted(rows, "begun", format=format)
    replace(tmp_path, "b.mp4")
    extracted(now, "fresh", format=format)
    expected, rename, moment = contents(tmp_path / "fresh"), os.replace, 0
    ended, again = False, []
    while not ended:
        out = tmp_path / f"{moment}"
        shutil.copytree(tmp_path / "begun", out)
        left = [moment]

        def replace_or_die(source, target, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_or_die)
            patch.setattr(Writing, "__exit__", lambda *_: None)
            try:
                extracted(now, out, format=format)
                ended = True
            except Killed:
                pass
        if format != "npy" and moment:
            seen = contents(out)
            assert all((seen[name]["label"] == expected[name]["label"]).all() for name in seen)  # no outdated ones
        counts = extracted(now, out, format=format)
        assert counts["not_in_source"] == counts["unreadable"] == 0 and counts["windows"] == 6
        assert_same(contents(out), expected)
        again.append(counts["rewritten"])
        moment += 1
    assert again == sorted(again, reverse=True) and set(again) == {2, 1, 0}  # what was finished is not made again


@pytest.mark.parametrize("format", FORMATS)
def test_a_replaced_video_that_cannot_be_read_has_no_features(extracted, tmp_path, format, capsys):
    extracted(ROWS, format=format)
    (tmp_path / "v" / "b.mp4").write_bytes(b"no video")
    assert extracted(ROWS, format=format) == ZERO | {"videos": 5, "skipped": 4, "unreadable": 1, "windows": 7}
    assert "b.mp4" not in contents(tmp_path / "out")
    assert not (tmp_path / "out" / "b.mp4.npz").exists() and not (tmp_path / "out" / "b.npy").exists()
    videos.write_video(tmp_path / "v" / "b.mp4", 8, first=10)
    assert extracted(ROWS, format=format)["written"] == 1 and "b.mp4" in contents(tmp_path / "out")


def test_a_video_that_is_gone_keeps_its_features(extracted, tmp_path, capsys):
    extracted(ROWS)
    (tmp_path / "v" / "b.mp4").unlink()
    assert extracted(ROWS)["skipped"] == 5
    assert "1 of 5 videos cannot be looked at, such as b.mp4: their features stay, unchecked" in capsys.readouterr().err
    assert extracted(["b.mp4,2,val,,", *ROWS[:1]])["unreadable"] == 1  # its label is another, which needs no video to see


@pytest.mark.parametrize("format", FORMATS)
def test_labels_of_several_classes_are_compared_as_they_are_written(extracted, tmp_path, format):
    rows = ["a.mp4,0;1,val,,", "b.mp4,2,val,,", "c.mp4,,val,,", "d.mp4,1;0,val,,", "e.mp4,2,val,,"]
    several = {"data__multi_label": True, "format": format}
    extracted(rows, **several)
    now = ["a.mp4,1;0,val,,", "b.mp4,1;2,val,,", "c.mp4,<none of the classes>,val,,", "d.mp4,0;1,val,,", "e.mp4,2,val,,"]
    assert extracted(now, **several)["rewritten"] == 2
    assert contents(tmp_path / "out")["b.mp4"]["label"].tolist() == [1, 2]
    # One label for a video is written otherwise than a list of one.
    assert extracted([*ROWS[:4], "e.mp4,2,val,,"], format=format)["rewritten"] == 5
    assert contents(tmp_path / "out")["e.mp4"]["label"].shape == ()


def test_rows_of_the_same_file_that_change_places(extracted, tmp_path):
    extracted(["a.mp4,0,val,,", "a.mp4,1,val,,"])
    assert extracted(["a.mp4,1,val,,", "a.mp4,0,val,,"])["rewritten"] == 2
    assert [int(arrays["label"]) for arrays in contents(tmp_path / "out").values()] == [1, 0]


def test_a_sequence_of_another_video_of_the_same_id(extracted, tmp_path, capsys):
    (tmp_path / "v" / "deep").mkdir()
    os.link(tmp_path / "v" / "a.mp4", tmp_path / "v" / "deep" / "a.mp4")  # the same size and time
    extracted(ROWS[:1], format="npy")
    assert extracted(["deep/a.mp4,0,val,,"], format="npy")["rewritten"] == 1
    assert "1 for files of another video of this name, such as deep/a.mp4" in capsys.readouterr().err
    assert list(contents(tmp_path / "out")) == ["deep/a.mp4"]


def without_record(folder):
    """Makes the files of a folder those of an earlier version."""
    (folder / "index.csv").unlink()
    for path in folder.rglob("*.npz"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b""
    for path in folder.glob("*.csv"):
        with open(path, newline="") as file:
            lines = [line[:3] for line in csv.reader(file)]
        with open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    for path in folder.glob("[a-e]*.json"):
        path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "made_from"}))


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_an_earlier_version_is_gone_on_with(extracted, tmp_path, format, capsys):
    extracted(ROWS, format=format)
    without_record(tmp_path / "out")
    replace(tmp_path, "b.mp4")  # which cannot be told
    assert extracted(ROWS, format=format) == ZERO | {"videos": 5, "skipped": 5, "windows": 9}
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "features of 5 of 5 videos were made by an earlier version" in said
        and "move the folder away" in said
    )
    assert extracted(["a.mp4,1,val,,", *ROWS[1:]], format=format)["rewritten"] == 1
    assert contents(tmp_path / "out")["a.mp4"]["label"] == 1


def cut_shards(folder):
    """Returns {why: a function that damages a shard in that way}."""
    shard, table = folder / "features-00001.array_record", folder / "features-00001.csv"
    return {
        "half": lambda: os.truncate(shard, shard.stat().st_size // 2),
        "empty": lambda: os.truncate(shard, 0),
        "its end": lambda: os.truncate(shard, shard.stat().st_size - 100),
        "other": lambda: shard.write_bytes(b"x" * (1 << 17)),
        "no table": table.unlink,
        "a cut table": lambda: os.truncate(table, table.stat().st_size // 2),
        "no lines": lambda: table.write_text("name,label,windows,made_from\n"),
    }


@pytest.mark.parametrize("damage", ["half", "empty", "its end", "other", "no table", "a cut table", "no lines"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_damaged_shard_is_set_aside_and_its_videos_made_again(extracted, tmp_path, damage, earlier, capsys, monkeypatch):
    monkeypatch.setattr(feature_shards.RecordFiles.__init__, "__defaults__", (2,))
    out = tmp_path / "out"
    extracted(ROWS, format="array_record")
    expected = contents(out)
    if earlier:
        without_record(out)
    cut_shards(out)[damage]()
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"features-00001.array_record is damaged \(.*\): run task=extract again") as refused:
        FeatureFolder(out)
    assert "\n" not in str(refused.value)
    counts = extracted(ROWS, format="array_record")
    assert (counts["skipped"], counts["written"] + counts["rewritten"]) == (3, 2)
    said = capsys.readouterr().err
    assert "features-00001.array_record is damaged (" in said and "set aside as features-00001.array_record.damaged" in said
    if damage in ("half", "empty", "its end", "other"):
        assert counts["rewritten"] == 2 and "2 for damaged or cut files, such as c.mp4, d.mp4" in said
    assert (out / "features-00001.array_record.damaged").exists()
    assert_same({name: contents(out)[name] for name in expected}, expected)
    assert extracted(ROWS, format="array_record")["skipped"] == 5


def test_a_shard_that_may_not_be_read_is_not_damaged(extracted, tmp_path, monkeypatch):
    extracted(ROWS[:1], format="array_record")
    [shard] = (tmp_path / "out").glob("*.array_record")
    opens = pathlib.Path.open

    def refuse(path, *args, **kwargs):  # root may read everything
        if path == shard:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", refuse)
        with pytest.raises(PermissionError):
            extracted(ROWS[:1], format="array_record")
    assert extracted(ROWS[:1], format="array_record")["skipped"] == 1


@pytest.mark.parametrize("damage", [b"", b"name,file\nx,y\n", b"name,file,windows\nx\n", b"\xff\xfe", b"name,file,windows\n\0"])
def test_a_damaged_index_is_one_line_and_written_again(extracted, tmp_path, damage):
    extracted(ROWS)
    (tmp_path / "out" / "index.csv").write_bytes(damage)
    with pytest.raises(ValueError, match=r"index.csv is damaged \(.*\): run task=extract again"):
        FeatureFolder(tmp_path / "out")
    assert extracted(ROWS)["skipped"] == 5 and len(contents(tmp_path / "out")) == 5
    (tmp_path / "out" / "index.csv").unlink()
    assert len(FeatureFolder(tmp_path / "out")) == 5


class Bytes:
    """A source of the bytes of files, and of frames, that has no files of its own."""

    class_names, identity, labels = (), "bytes", np.zeros(2, np.int32)

    def __init__(self, folder, shade=0):
        self.folder, self.shade = folder, shade

    def __len__(self):
        return 2

    def key(self, index):
        return f"{index}"

    def __getitem__(self, index):
        frames = np.full((8, 32, 32, 3), self.shade, np.uint8)
        return Record(f"{index}", 0, None, None, frames if index else (self.folder / "a.mp4").read_bytes())


def test_videos_without_files_are_told_apart_by_their_content(extracted, tmp_path):
    extracted([], source=Bytes(tmp_path / "v"))
    assert extracted([], source=Bytes(tmp_path / "v"))["skipped"] == 2
    os.utime(tmp_path / "v" / "a.mp4", ns=(1, 1))
    assert extracted([], source=Bytes(tmp_path / "v"))["skipped"] == 2
    assert extracted([], source=Bytes(tmp_path / "v", shade=200))["rewritten"] == 1
    replace(tmp_path, "a.mp4")
    assert extracted([], source=Bytes(tmp_path / "v", shade=200))["rewritten"] == 1


def test_videos_of_a_shard_that_was_written_again(extracted, tmp_path):
    def shard(names):
        with tarfile.open(tmp_path / "val.tar", "w") as tar:
            for number, name in enumerate(names):
                tar.add(tmp_path / "v" / name, f"{number}.mp4")

    fields = {"data__source": "webdataset", "data__webdataset__shards": str(tmp_path / "{split}.tar")}
    shard(["a.mp4", "b.mp4"])
    extracted([], **fields)
    assert extracted([], **fields)["skipped"] == 2
    before = contents(tmp_path / "out")
    shard(["c.mp4", "b.mp4"])
    os.utime(tmp_path / "val.tar", ns=(1, 1))
    assert extracted([], **fields)["rewritten"] == 2
    after = contents(tmp_path / "out")
    changed = [np.abs(after[name]["features"] - before[name]["features"]).max() > 1e-3 for name in after]
    assert changed == [True, False]


def test_a_shard_that_is_cut_short_is_listed_and_the_rest_extracted(extracted, tmp_path):
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for name in "ab":
            tar.add(tmp_path / "v" / f"{name}.mp4", f"{name}.mp4")
    with tarfile.open(tmp_path / "val.tar") as tar:
        second = tar.getmembers()[1].offset_data
    c = config(data__source="webdataset", data__webdataset__shards=str(tmp_path / "{split}.tar"))
    source = make_source(c.data, "val")
    os.truncate(tmp_path / "val.tar", second + 100)
    assert extracted([], source=source) == ZERO | {"videos": 2, "written": 1, "unreadable": 1, "windows": 2}
    assert "the shard is shorter than when its index was made" in (tmp_path / "out" / "bad_files.csv").read_text()


@pytest.mark.parametrize("length", [240, 247, 251])
def test_sequences_of_long_names(extracted, tmp_path, length):
    os.link(tmp_path / "v" / "a.mp4", tmp_path / "v" / ("n" * (length - 4) + ".mp4"))
    rows = ["n" * (length - 4) + ".mp4,0,val,,"]
    assert extracted(rows, format="npy")["written"] == extracted(rows, format="npy")["skipped"] == 1


@pytest.fixture(scope="module")
def bucket():
    with serving("s3") as path:
        yield path


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_in_a_bucket(extracted, tmp_path, bucket, format, capsys):
    place = f"{bucket}/{format}"
    upload(tmp_path / "v", f"{place}/v")
    fields = {"format": format, "out": f"{place}/out", "data__root": f"{place}/v"}
    assert extracted(ROWS, **fields) == ZERO | {"videos": 5, "written": 5, "windows": 9}
    assert extracted(ROWS, **fields) == ZERO | {"videos": 5, "skipped": 5, "windows": 9}
    assert capsys.readouterr().err == ""
    replace(tmp_path, "c.mp4")
    upload(tmp_path / "v", f"{place}/v")  # the others have the same entity tags as before
    now = ["a.mp4,2,val,,", *ROWS[1:3]]
    expected = ZERO | {"videos": 3, "rewritten": 2, "skipped": 1, "windows": 6, "not_in_source": 2}
    assert extracted(now, **fields) == expected
    extracted(now, "fresh", format=format)
    for path in RemotePath(f"{place}/out").files():
        (tmp_path / "copy" / path.relative_to(RemotePath(f"{place}/out"))).parent.mkdir(parents=True, exist_ok=True)
        path.download(tmp_path / "copy" / path.relative_to(RemotePath(f"{place}/out")))
    assert_same(contents(tmp_path / "copy"), contents(tmp_path / "fresh"))
    RemotePath(f"{place}/v/b.mp4").write_bytes(b"no video")
    assert extracted(now, **fields) | {"not_in_source": 0} == ZERO | {"videos": 3, "skipped": 2, "unreadable": 1, "windows": 4}
    assert extracted(now, **fields)["unreadable"] == 1
