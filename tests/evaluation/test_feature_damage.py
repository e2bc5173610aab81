"""Damaged features: the next extraction makes them again, and readers name the file; a full disk, and names that lead out of the folder."""

import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from cvmae.config import ConfigError
from cvmae.data.records import why_outside
from cvmae.data.sources import make_source
from cvmae.evaluation import extract, feature_shards
from cvmae.evaluation.feature_files import NpzFiles, Stored
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.feature_reading import FeatureError
from tests.evaluation.conftest import COUNT
from tests.tiny_configs import config


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def flip_in(path, part: bytes):
    flip(path, path.read_bytes().index(part) + len(part) // 2)


def rewrite(path, count, names):
    """Keeps the first windows of some arrays, and the comment."""
    arrays, comment = dict(np.load(path)), zipfile.ZipFile(path).comment
    np.savez(path, **{name: value[:count] if name in names else value for name, value in arrays.items()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment


def unreadable_records(shard, count):
    """The numbers of the records that array_record's own reader refuses."""
    bad = []
    for number in range(count):
        try:
            ArrayRecordReader(str(shard)).read([number])
        except RuntimeError:
            bad.append(number)
    return bad


def flip_in_record(shard, wanted, count):
    """Changes a byte of which one record consists, however the records are compressed."""
    whole = shard.read_bytes()
    for at in range(64, len(whole), 200):
        flip(shard, at)
        if unreadable_records(shard, count) == [wanted]:
            return
        shard.write_bytes(whole)
    raise AssertionError("no byte is of this record alone")


WINDOWED = ("features", "start_s", "end_s")
DAMAGES = {
    "one bit": lambda path, features: flip_in(path, features),
    "a bit of the times": lambda path, features: flip_in(path, b"start_s.npy\x93NUMPY"),
    "fewer windows": lambda path, features: rewrite(path, 1, WINDOWED),
    "fewer features": lambda path, features: rewrite(path, 1, WINDOWED[:1]),
    "no features": lambda path, features: rewrite(path, 0, WINDOWED),
    "cut": lambda path, features: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, features: os.truncate(path, 0),
    "another file": lambda path, features: path.write_bytes(b"x" * 5000),
    "one array": lambda path, features: np.save(path.open("wb"), np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_again(extracted, tmp_path, damage, capsys):
    extracted()
    folder, path = tmp_path / "out", tmp_path / "out" / "d" / "1.mp4.npz"
    before = dict(FeatureFolder(folder))
    DAMAGES[damage](path, before["d/1.mp4"]["features"].tobytes())
    if damage not in ("fewer windows", "no features"):  # these are whole files of fewer windows
        message = r"out/d/1.mp4.npz is damaged \(.+\): run task=extract again, which recomputes it$"
        with pytest.raises(FeatureError, match=message) as refused:
            FeatureFolder(folder)["d/1.mp4"]
        assert isinstance(refused.value, ValueError) and "\n" not in str(refused.value)
    capsys.readouterr()
    counts = extracted()
    assert (counts["skipped"], counts["rewritten"], counts["written"]) == (COUNT - 1, 1, 0)
    assert "1 for damaged or cut files, such as d/1.mp4" in capsys.readouterr().err
    after = dict(FeatureFolder(folder))
    for name in before:
        np.testing.assert_allclose(after[name]["features"], before[name]["features"], atol=1e-5)
    assert extracted()["skipped"] == COUNT


def test_every_bit_of_the_arrays_is_watched(extracted, tmp_path):
    """A bit is harmless only where no reader looks: times and attributes in the headers of a zip file."""
    extracted()
    path, whole = tmp_path / "out" / "d" / "1.mp4.npz", FeatureFolder(tmp_path / "out")["d/1.mp4"]
    content, files = path.read_bytes(), NpzFiles(tmp_path / "out")
    stored = files.stored("d/1.mp4")
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        if files.stored("d/1.mp4") != stored:
            continue
        arrays = FeatureFolder(tmp_path / "out")["d/1.mp4"]
        assert all(np.array_equal(arrays[name], whole[name]) for name in whole), at


def test_a_bit_far_into_large_features(tmp_path):
    """A file is read in pieces."""
    files = NpzFiles(tmp_path)
    file = files.begin("a", (500, 768), np.dtype("float32"))
    file.append(np.ones((500, 768), np.float32))
    file.finish({"path": "a"}, start_s=np.zeros(500), end_s=np.zeros(500), label=np.int32(0), path=np.array("a"))
    files.add("a", file)
    assert files.stored("a") == Stored(500, {"path": "a"})
    flip(tmp_path / "a.npz", 1_500_000)
    assert files.stored("a") == Stored(damaged=True)


@pytest.mark.parametrize("kept", [True, False])
def test_a_damaged_record_is_named_and_made_again(extracted, tmp_path, kept, monkeypatch):
    """The other records of its shard stay."""
    monkeypatch.setattr(feature_shards.RecordFiles.__init__, "__defaults__", (3,))
    extracted("array_record")
    folder, shard = tmp_path / "out", tmp_path / "out" / "features-00000.array_record"
    before = dict(FeatureFolder(folder))
    flip_in_record(shard, 1, 3)
    reader = FeatureFolder(folder)
    with pytest.raises(
        FeatureError, match=r"features-00000.array_record, record of d/1.mp4, is damaged \(.+\): run task=extract"
    ):
        reader["d/1.mp4"]
    np.testing.assert_array_equal(reader["d/2.mp4"]["features"], before["d/2.mp4"]["features"])
    if not kept:  # a run that ends between the new features and their shard
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(feature_shards.RecordFiles, "_pack", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            extracted("array_record")
    counts = extracted("array_record")
    assert (counts["skipped"], counts["rewritten"]) == ((COUNT - 1, 1) if kept else (COUNT, 0))
    after = dict(FeatureFolder(folder))
    for name in before:
        np.testing.assert_allclose(after[name]["features"], before[name]["features"], atol=1e-5)
    assert extracted("array_record")["skipped"] == COUNT


def test_a_damaged_sequence_is_made_again(extracted, tmp_path):
    extracted("npy")
    path = tmp_path / "out" / "1.npy"
    whole = path.read_bytes()
    flip(path, path.stat().st_size - 20)
    assert extracted("npy")["rewritten"] == 1
    np.testing.assert_allclose(np.load(path), np.load(io.BytesIO(whole)), atol=1e-5)
    beside = json.loads(path.with_suffix(".json").read_text())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:  # zipfile's checksum
        archive.write(path, "x")
        assert beside.pop("crc32") == archive.getinfo("x").CRC
    path.with_suffix(".json").write_text(json.dumps(beside))  # an earlier version recorded none
    assert extracted("npy")["skipped"] == COUNT


def test_a_damaged_file_of_a_long_name_does_not_keep_others_from_being_read(extracted, tmp_path):
    names = ("a.mp4", "x" * 300)
    extracted(names=names)
    [path] = (tmp_path / "out").glob("x*.npz")
    path.write_bytes(b"")
    folder = FeatureFolder(tmp_path / "out")
    assert list(folder) == list(names) and len(folder["a.mp4"]["features"]) == 3
    with pytest.raises(FeatureError, match="x~[0-9a-f]{16}.npz is damaged"):
        folder[names[1]]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_shard_on_a_full_disk(extracted, tmp_path):
    (tmp_path / "out").mkdir()
    shard = tmp_path / "out" / "features-00000.array_record"
    os.symlink("/dev/full", f"{shard}.{os.getpid()}.tmp")
    with pytest.raises(OSError, match="No space left on device") as full:
        extracted("array_record")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(shard))
    assert not list((tmp_path / "out").glob("*.tmp")) and not shard.exists()
    assert extracted("array_record")["skipped"] == COUNT and len(FeatureFolder(tmp_path / "out")) == COUNT


@pytest.mark.parametrize("name", ["../b", "a/../../../b", "/a", "//a", "a//b", "./a", "a/.", "a\0", "", ".."])
@pytest.mark.parametrize("format", extract.FORMATS)
def test_a_name_that_leads_out_is_refused_before_anything_is_written(extracted, tmp_path, name, format):
    with pytest.raises(
        ConfigError, match=r"a video of the data is called '.*', which (has|is) .*: give it a relative path"
    ) as refused:
        extracted(format, ("fine", name))
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no file of .* can have the name"):
        NpzFiles(tmp_path / "out").path(name)


@pytest.mark.parametrize("name", ["a", "a/b.mp4", "a/..b", "...", "a/b@0.5-1.0~2", "elsewhere/a b/c"])
def test_other_names_stay_below_the_folder(name, tmp_path):
    assert not why_outside(name)
    path = os.path.normpath(NpzFiles(tmp_path / "out").path(name))
    assert path == f"{tmp_path}/out/{name}.npz"


@pytest.mark.parametrize("path", [".", "..", "./"])
def test_rows_of_a_hub_set_are_named_after_its_folder(path, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set" / "below").mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"video": [b"x"], "label": [0]})
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set" / ("below" if path == ".." else ""))
    c = config(data__source="hf", data__hf__path=path, data__hf__video="video", data__hf__label="label")
    assert make_source(c.data, "train").key(0) == "set/train/0"
