"""A folder of features as a mapping: what it should hold and does not, and what is of another video or encoder."""

import shutil

import jax
import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError
from cvmae.evaluation import feature_cache, feature_writing
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.feature_reading import FeatureError
from tests.evaluation.conftest import COUNT


def exchange(first, second):
    kept = first.with_name("kept")
    first.rename(kept), second.rename(first), kept.rename(second)


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_a_video_of_the_index_that_is_not_there_is_not_left_out(extracted, tmp_path, format):
    """Its name was changed in a list, or its file was deleted: whoever reads all features would train without it."""
    extracted(format)
    table = (folder := tmp_path / "out") / ("index.csv" if format == "npz" else "features-00000.csv")
    table.write_text(table.read_text().replace("d/1.mp4", "d/one.mp4", 1))
    lost = "d/one.mp4" if format == "npz" else "d/1.mp4"
    features = FeatureFolder(folder)
    assert len(features) == COUNT and features["d/2.mp4"]["path"] == "d/2.mp4"
    with pytest.raises(FeatureError, match=f"out/index.csv lists {lost}, and its features are not there: run task=extract again"):
        features[lost]
    extracted(format)
    assert [str(arrays["path"]) for arrays in FeatureFolder(folder).values()] == [f"d/{number}.mp4" for number in range(COUNT)]
    if format == "npz":
        (folder / "d" / "1.mp4.npz").unlink()
        with pytest.raises(FeatureError, match=r"lists d/1.mp4, and its features are not there"):
            dict(FeatureFolder(folder))
        for path in (folder / "d").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError, match="holds no features"):
            FeatureFolder(folder)


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_features_under_the_name_of_another_video_are_named_and_made_again(extracted, tmp_path, format):
    extracted(format)
    folder, before = tmp_path / "out", dict(FeatureFolder(tmp_path / "out"))
    if format == "npz":
        exchange(folder / "d" / "1.mp4.npz", folder / "d" / "2.mp4.npz")
    else:  # lines of the table are exchanged, not the numbers of their records
        table = folder / "features-00000.csv"
        table.write_text(table.read_text().replace("1.mp4", "?").replace("2.mp4", "1.mp4").replace("?", "2.mp4"))
    for name, other in (("1", "2"), ("2", "1")):
        with pytest.raises(FeatureError, match=rf"\(it holds the features of 'd/{other}.mp4'\): run task=extract again"):
            FeatureFolder(folder)[f"d/{name}.mp4"]
    assert extracted(format)["rewritten"] == 2
    for name, arrays in FeatureFolder(folder).items():
        np.testing.assert_allclose(arrays["features"], before[name]["features"], atol=1e-5)


@pytest.mark.parametrize("format", ["npz", "array_record", "npy"])
def test_features_of_another_encoder_are_named_and_made_again(extracted, encoder, tmp_path, format):
    """Somebody copied them from the folder of another run, whose list of videos is the same."""
    extracted(format)
    extracted(format, out="other", params=jax.tree.map(lambda leaf: leaf + 0.1, encoder[0]))
    files = {"npz": ["d/1.mp4.npz"], "npy": ["1.npy", "1.json"]}.get(
        format, ["features-00000.array_record", "features-00000.csv"]
    )
    for file in files:
        shutil.copy(tmp_path / "other" / file, tmp_path / "out" / file)
    if format != "npy":
        with pytest.raises(
            FeatureError,
            match=r"\(it was made with another encoder or other settings than the others in this folder, or than identity.json, "
            r"to be deleted where that is of another folder\)",
        ):
            FeatureFolder(tmp_path / "out")["d/1.mp4"]
    (tmp_path / "other" / "identity.json").unlink(missing_ok=True)
    counts = extracted(format)
    assert counts["rewritten"] == (COUNT if format == "array_record" else 1) and counts["written"] == 0
    if format != "npy":
        np.testing.assert_array_equal(FeatureFolder(tmp_path / "other")["d/1.mp4"]["label"], 0)  # nothing says what made these
        assert len(dict(FeatureFolder(tmp_path / "out"))) == COUNT
    assert extracted(format)["skipped"] == COUNT


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_features_of_another_video_of_the_same_name_are_named_and_written_again(extracted, tmp_path, format):
    """Folders of splits often number their videos alike, and the same encoder made both."""
    names = tuple(f"d/{number}.mp4" for number in range(COUNT))
    extracted(format, names)
    extracted(format, names[::-1], out="val")  # the same names of other frames
    folder, before = tmp_path / "out", dict(FeatureFolder(tmp_path / "out"))
    index = (folder / "index.csv").read_text()
    assert index.splitlines()[0] == "name,file,windows,video"
    for file in {"npz": ["d/1.mp4.npz"]}.get(format, ["features-00000.array_record", "features-00000.csv"]):
        shutil.copy(tmp_path / "val" / file, folder / file)
    refused = r"d/1.mp4.* is damaged \(it was made from another video of this name than the index lists"
    with pytest.raises(FeatureError, match=refused):
        FeatureFolder(folder)["d/1.mp4"]
    for edit in ("rows in another order", "rows removed"):
        header, *rows = index.splitlines()
        (folder / "index.csv").write_text("\n".join([header, *(rows[::-1] if "order" in edit else rows[:2])]) + "\n")
        with pytest.raises(FeatureError, match=refused):
            FeatureFolder(folder)["d/1.mp4"]
    # An index of an earlier version lists no video.
    (folder / "index.csv").write_text("".join(f"{','.join(line.split(',')[:3])}\n" for line in index.splitlines()))
    assert len(dict(FeatureFolder(folder))) == COUNT
    assert extracted(format, names)["rewritten"] == (1 if format == "npz" else COUNT)
    assert (folder / "index.csv").read_text().count("\n") == COUNT + 1
    for name, arrays in FeatureFolder(folder).items():
        np.testing.assert_allclose(arrays["features"], before[name]["features"], atol=1e-5)


def test_an_index_that_lists_a_video_twice(extracted, tmp_path):
    extracted()
    index = tmp_path / "out" / "index.csv"
    line = index.read_text().splitlines()[1]
    index.write_text(index.read_text() + line + "\n")
    assert len(dict(FeatureFolder(tmp_path / "out"))) == COUNT
    index.write_text(index.read_text() + line.replace(",3,", ",4,") + "\n")
    with pytest.raises(FeatureError, match=r"\(index.csv:7: d/0.mp4 is there twice, with other values\)"):
        FeatureFolder(tmp_path / "out")


def test_features_of_before_files_said_what_made_them_stay(extracted, tmp_path, monkeypatch):
    def origin_of(*args):
        origin = now(*args)
        del origin["encoder"]
        return origin

    now = feature_writing.origin_of
    with monkeypatch.context() as patch:
        patch.setattr(feature_writing, "origin_of", origin_of)
        extracted()
    assert extracted()["skipped"] == COUNT == len(dict(FeatureFolder(tmp_path / "out")))


def test_what_is_no_folder_of_features(extracted, tmp_path):
    extracted()
    index = tmp_path / "out" / "index.csv"
    for path in (index, tmp_path / "out" / "d" / "1.mp4.npz"):
        with pytest.raises(cvmae.FeatureError, match=f"^{path} is a file: give the folder of features that it lies in$"):
            FeatureFolder(path)
    content = index.read_bytes()
    index.write_bytes(b"\xef\xbb\xbf" + content)  # as a spreadsheet writes it
    assert len(dict(FeatureFolder(tmp_path / "out"))) == COUNT
    index.write_bytes(content.replace(b".npz,3", b".npz,99", 1))
    with pytest.raises(FeatureError, match=r"\(it has 3 windows, and was written with 99\)"):
        dict(FeatureFolder(tmp_path / "out"))
    index.unlink()
    index.mkdir()
    with pytest.raises(FeatureError, match=r"index.csv is damaged \(index.csv: it is a folder\)"):
        FeatureFolder(tmp_path / "out")


def test_without_an_index_features_still_have_to_be_of_their_video(extracted, tmp_path):
    """A message sends people there: delete index.csv to read all that is there."""
    extracted()
    folder = tmp_path / "out"
    (folder / "index.csv").unlink()
    assert len(dict(FeatureFolder(folder))) == COUNT
    exchange(folder / "d" / "1.mp4.npz", folder / "d" / "2.mp4.npz")
    with pytest.raises(
        FeatureError,
        match=r"d/1.mp4.npz holds the features of 'd/2.mp4', and is 'd/1.mp4' of .*: give it that name, or run task=extract again",
    ):
        FeatureFolder(folder)["d/1.mp4"]


@pytest.mark.parametrize("wrong", [".", "out/d", "out"])
def test_a_folder_above_below_or_within_features_is_refused_with_the_right_one(extracted, tmp_path, wrong):
    """Its keys would be other names than those of the videos, or names of two splits."""
    extracted(names=("a/1.mp4", "d/1.mp4", "x" * 300))
    right, folder = tmp_path / "out", tmp_path / wrong
    (right / "index.csv").unlink()
    assert len(dict(FeatureFolder(right))) == 3
    if wrong == "out":  # a folder of another split was copied into it
        extracted(names=("d/1.mp4", "d/2.mp4"), out="val")
        shutil.copytree(tmp_path / "val", right / "val")
        right = right / "val"
    with pytest.raises(
        FeatureError, match=rf"holds the features of '[ad]/1.mp4', and is '.*' of {folder}: give the folder {right}(;|$)"
    ):
        FeatureFolder(folder)
    (right / "identity.json").unlink()  # by which a folder in another one is seen at once
    with pytest.raises(FeatureError, match=rf"give the folder {right}(;|$)"):
        dict(FeatureFolder(folder))


def test_columns_of_an_index_that_do_not_belong_together(extracted, tmp_path):
    """A spreadsheet sorted one of them alone; this one is of an earlier version, without the videos."""
    extracted()
    index = tmp_path / "out" / "index.csv"
    names = [f"d/{number}.mp4" for number in range(COUNT)]
    index.write_text("\n".join(["name,file,windows", *(f"{a},{b}.npz,3" for a, b in zip(names, names[::-1], strict=True))]))
    with pytest.raises(FeatureError, match="index.csv lists d/0.mp4 with the file d/3.mp4.npz, and its own is d/0.mp4.npz: run"):
        FeatureFolder(tmp_path / "out")["d/0.mp4"]


def test_shards_and_files_of_two_extractions_in_one_folder(extracted, tmp_path):
    """Somebody copied them there and removed the list; either would hide the other."""
    extracted("array_record")
    out = tmp_path / "out"
    (out / "index.csv").unlink()
    assert len(dict(FeatureFolder(out))) == COUNT
    for kind in ("array_record", "csv"):
        shutil.copy(out / f"features-00000.{kind}", out / f"features-00001.{kind}")
    with pytest.raises(
        FeatureError, match="features-00000.array_record and features-00001.array_record both have features of d/0"
    ):
        FeatureFolder(out)
    (out / "features-00001.array_record").unlink()
    extracted(out="files")
    shutil.copytree(tmp_path / "files" / "d", out / "d")
    with pytest.raises(
        FeatureError, match="holds .array_record shards and .npz files such as d/0.mp4.npz: move one of the two away"
    ):
        FeatureFolder(out)


def test_what_systems_and_editors_leave_is_passed_over(extracted, tmp_path):
    extracted()
    out = tmp_path / "out"
    (out / "index.csv").unlink()
    (out / "d" / "._0.mp4.npz").write_bytes(b"Mac OS X")
    (out / "e.npz").mkdir()
    (out / "identity.json").write_bytes(b"\xef\xbb\xbf" + (out / "identity.json").read_bytes())
    assert len(dict(FeatureFolder(out))) == COUNT == extracted()["skipped"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is not there: give the folder of features"):
        FeatureFolder(tmp_path / "none")


def test_an_accent_that_the_file_system_writes_otherwise(extracted, tmp_path):
    """As a disk of macOS does."""
    extracted(names=("Caf\u00e9.mp4",))
    (tmp_path / "out" / "index.csv").unlink()
    (tmp_path / "out" / "Caf\u00e9.mp4.npz").rename(tmp_path / "out" / "Cafe\u0301.mp4.npz")
    [arrays] = FeatureFolder(tmp_path / "out").values()
    assert arrays["path"] == "Caf\u00e9.mp4"


def test_what_is_no_folder_of_features_by_video_is_called_by_its_name(extracted, tmp_path):
    rows = {"values": np.zeros((3, 2), np.float32), "labels": np.zeros(3), "index": np.arange(3), "clip": np.zeros(3)}
    feature_cache.cached_rows(tmp_path / "cache", {}, 3, lambda row: (rows | {"valid": np.ones(3, bool)} for _ in range(1)), 3)
    with pytest.raises(FileNotFoundError, match="cache is the cache of task=knn or task=retrieval, .*: task=extract writes"):
        FeatureFolder(tmp_path / "cache")
    extracted("npy")
    with pytest.raises(FileNotFoundError, match="out holds .npy files, as config.extract.format=npy .*: read those with np.load"):
        FeatureFolder(tmp_path / "out")
    extracted(out="both")
    shutil.copytree(tmp_path / "cache", tmp_path / "both" / "train")
    (tmp_path / "both" / "index.csv").unlink()  # to read all that is there
    assert list(FeatureFolder(tmp_path / "both")) == [f"d/{number}.mp4" for number in range(COUNT)]
    (tmp_path / "work" / "features").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="work holds no features: give .*work/features$"):
        FeatureFolder(tmp_path / "work")


def test_without_an_identity_features_are_of_the_encoder_of_the_first(extracted, encoder, tmp_path):
    extracted()
    extracted(out="other", params=jax.tree.map(lambda leaf: leaf + 0.1, encoder[0]))
    folder = tmp_path / "out"
    shutil.copy(tmp_path / "other" / "d" / "1.mp4.npz", folder / "d" / "1.mp4.npz")
    (folder / "identity.json").unlink()
    with pytest.raises(FeatureError, match=r"d/1.mp4.npz is damaged \(it was made with another encoder"):
        dict(FeatureFolder(folder))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{", b"\xff"])
def test_a_damaged_identity_may_be_deleted(extracted, tmp_path, content):
    extracted()
    path = tmp_path / "out" / "identity.json"
    path.write_bytes(content)
    message = r"identity.json is damaged \(.*\): delete it, as each file of features says itself what made it \(.* 0.1.0: move the folder away .*\)$"
    with pytest.raises(FeatureError, match=message) as refused:
        FeatureFolder(tmp_path / "out")
    with pytest.raises(ConfigError) as also_refused:
        extracted()
    assert str(also_refused.value) == str(refused.value)
    path.unlink()
    assert extracted()["skipped"] == COUNT == len(dict(FeatureFolder(tmp_path / "out"))) and path.exists()


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_an_index_of_nothing_that_is_there(extracted, tmp_path, format):
    extracted(format)
    index = tmp_path / "out" / "index.csv"
    content = index.read_bytes()
    for other in (b"name,file,windows\n", b"name,file,windows\nx,x.npz,3\n"):
        index.write_bytes(other)
        with pytest.raises(
            FeatureError, match="index.csv lists nothing of what is there: run task=extract again, which writes it"
        ):
            FeatureFolder(tmp_path / "out")
    index.write_bytes(content + b"\n\n")  # an editor left blank lines
    assert len(dict(FeatureFolder(tmp_path / "out"))) == COUNT
    assert extracted(format)["skipped"] == COUNT and index.read_bytes() == content


def test_a_folder_in_the_place_of_a_shard(extracted, tmp_path):
    extracted("array_record")
    shard = tmp_path / "out" / "features-00000.array_record"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(FeatureError, match=r"features-00000.array_record is damaged \(it is a folder\)"):
        FeatureFolder(tmp_path / "out")
    assert extracted("array_record")["rewritten"] == COUNT and len(dict(FeatureFolder(tmp_path / "out"))) == COUNT
