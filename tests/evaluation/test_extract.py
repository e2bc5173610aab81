"""Extracted features: of the right windows, in the right file, whatever is interrupted, broken or named alike."""

import csv
import errno
import os
import pathlib

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data import clips, decode
from cvmae.data.bad_files import BadDataError
from cvmae.data.pipeline import clip_spec
from cvmae.data.sources import make_source
from cvmae.data.windows import plan_windows
from cvmae.evaluation import extract, feature_files, feature_shards
from cvmae.evaluation.extract import extract_features, output_names
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.features import FeatureSpec, make_encode
from cvmae.models.build import build_encoder, video_grid
from cvmae.parallel.mesh import Placement, local_mesh
from tests.data import videos
from tests.tiny_configs import config

LINES = [
    "path,label,split,start,end",
    "up/a.mp4,1,val,,",  # 30 frames: 8 windows of 4 frames
    "a.mp4,2,val,,",  # 9 frames: 3 windows
    "a.mkv,,val,,",  # 3 frames: 1 window, padded
    "up/a.mp4,0,val,0.5,1.5",
    "a.mp4,2,val,,",  # again
]
COUNTS = {"up/a.mp4": 8, "a.mp4": 3, "a.mkv": 1, "up/a.mp4@0.5-1.5": 3, "a.mp4~2": 3}
POOLED = FeatureSpec()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "up").mkdir()
    for name, count, first in (("up/a.mp4", 30, 0), ("a.mp4", 9, 50), ("a.mkv", 3, 70)):
        videos.write_video(folder / name, count, first=first)
    (folder / "list.csv").write_text("\n".join(LINES))
    (folder / "one.csv").write_text("\n".join([LINES[0], LINES[2]]))
    (folder / "text.mp4").write_text("no video")
    (folder / "bad.csv").write_text("\n".join([*LINES[:3], "text.mp4,1,val,,", *LINES[3:]]))
    return folder


def file_config(folder, name="list.csv", **changes):
    return config(data__source="files", data__manifest=str(folder / name), data__max_bad_fraction=0.2, batch_size=4, **changes)


@pytest.fixture(scope="module")
def params(folder):
    c = file_config(folder)
    encoder = build_encoder(c, c.video_branch, video_grid(c))
    return jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]


def run(folder, params, out, name="list.csv", spec=POOLED, changes=None, **options):
    c = file_config(folder, name, **(changes or {}))
    return extract_features(c, params, make_source(c.data, "val"), out, spec, **options)


def counts(**others):
    """The numbers of a folder that has the features of LINES and nothing else."""
    return (
        dict.fromkeys(("written", "rewritten", "skipped", "unreadable", "not_in_source"), 0)
        | {"videos": 5, "windows": 18}
        | others
    )


def by_hand(folder, params, index, spec=POOLED, window_stride=0):
    """One window at a time, by the reader of single clips."""
    c = file_config(folder)
    record, encode = make_source(c.data, "val")[index], make_encode(c, spec)
    planned = plan_windows(clip_spec(c), decode.read_table(record.payload).times, window_stride, record.start, record.end)
    rows = []
    for frames in planned.frames:
        clip = clips.fit_frames(decode.read_frames(record.payload, frames), *c.data.frame_size, c.data.fit)
        rows.append(encode(params, clip[None, None])[0])
    return planned, np.stack(rows)


def leftovers(out):
    return [path for path in out.rglob("*") if path.suffix in (".tmp", ".waiting") or path.name == "waiting"]


def assert_same(some, others):
    assert set(some) == set(others)
    for name in some:
        assert set(some[name]) == set(others[name]) == {"features", "start_s", "end_s", "label", "path"}
        for key in some[name]:
            if key == "features":
                np.testing.assert_allclose(some[name][key], others[name][key], atol=1e-5)
            else:
                np.testing.assert_array_equal(some[name][key], others[name][key])


@pytest.mark.parametrize("changes", [{}, {"data__workers": 3}], ids=["one thread", "three threads"])
def test_every_video_has_the_features_of_its_windows(folder, params, tmp_path, changes):
    summary = run(folder, params, tmp_path, changes=changes, placement=Placement(local_mesh()))
    files = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert summary == counts(written=5, bytes=files)
    found = FeatureFolder(tmp_path)
    assert {name: len(arrays["features"]) for name, arrays in found.items()} == COUNTS and not leftovers(tmp_path)
    for index, name in enumerate(COUNTS):
        planned, expected = by_hand(folder, params, index)
        arrays = found[name]
        np.testing.assert_allclose(arrays["features"], expected, atol=1e-5)
        assert np.abs(np.roll(expected, 1, axis=0) - expected).max() > 1e-3 or len(expected) == 1
        assert arrays["start_s"].tolist() == planned.start_s.tolist() and arrays["end_s"].tolist() == planned.end_s.tolist()
        assert arrays["label"] == [1, 2, -1, 0, 2][index] and arrays["path"] == name
        assert [arrays[key].dtype.name for key in ("features", "start_s", "label")] == ["float32", "float64", "int32"]
    assert found["up/a.mp4@0.5-1.5"]["start_s"][0] == 0.5


def test_a_batch_that_is_not_full(folder, params, tmp_path):
    assert run(folder, params, tmp_path, "one.csv")["windows"] == 3
    np.testing.assert_allclose(FeatureFolder(tmp_path)["a.mp4"]["features"], by_hand(folder, params, 1)[1], atol=1e-5)


@pytest.mark.parametrize("spec, shape", [(FeatureSpec(0, "slots"), (2, 32)), (FeatureSpec(tokens="all"), (8, 32))])
def test_other_features_and_strides(folder, params, tmp_path, spec, shape):
    run(folder, params, tmp_path, spec=spec, window_stride=1)
    found = FeatureFolder(tmp_path)
    planned, expected = by_hand(folder, params, 1, spec, 1)
    assert found["a.mp4"]["features"].shape == (6, *shape) and len(planned) == 6
    np.testing.assert_allclose(found["a.mp4"]["features"], expected, atol=1e-5)
    assert len(found["up/a.mp4"]["features"]) == 27


def test_array_record_holds_the_same(folder, params, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_shards.RecordFiles.__init__, "__defaults__", (2,))
    run(folder, params, tmp_path / "npz")
    assert run(folder, params, tmp_path / "records", format="array_record")["written"] == 5
    assert_same(FeatureFolder(tmp_path / "npz"), FeatureFolder(tmp_path / "records"))
    shards = sorted(path.name for path in (tmp_path / "records").iterdir())
    assert shards == sorted(
        ["identity.json", "index.csv", *(f"features-0000{i}.{kind}" for i in range(3) for kind in ("csv", "array_record"))]
    )
    with open(tmp_path / "records" / "features-00002.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert int(row["windows"]) == COUNTS[row["name"]]
    again = run(folder, params, tmp_path / "records", format="array_record")
    assert again == counts(skipped=5, bytes=sum(path.stat().st_size for path in (tmp_path / "records").glob("*.array_record")))


def interrupted_after(count, monkeypatch):
    """Lets so many batches through."""
    original, seen = extract.make_encode, []

    def make(*arguments):
        encode = original(*arguments)

        def counted(params, video):
            if len(seen) == count:
                raise KeyboardInterrupt
            seen.append(video)
            return encode(params, video)

        return counted

    monkeypatch.setattr(extract, "make_encode", make)
    return seen


# Of so many batches of 4 windows the last is not written: half of the first video, or three whole videos.
def test_a_table_of_records_may_be_sorted(folder, params, tmp_path):
    run(folder, params, tmp_path, format="array_record")
    before, table = dict(FeatureFolder(tmp_path).items()), tmp_path / "features-00000.csv"
    header, *lines = table.read_text().splitlines()
    for order in (sorted(lines), lines[::-1]):
        table.write_text("\n".join([header, *order]) + "\n")
        assert_same(dict(FeatureFolder(tmp_path).items()), before)
        assert run(folder, params, tmp_path, format="array_record")["skipped"] == 5
    table.write_text("\n".join([header, *lines[:-1], lines[0]]) + "\n")  # a record twice, and one not at all
    counts = run(folder, params, tmp_path, format="array_record")
    assert (counts["rewritten"], counts["written"]) == (4, 1)
    assert_same(dict(FeatureFolder(tmp_path).items()), before)


@pytest.mark.parametrize("format, batches, done", [("npz", 2, 0), ("array_record", 4, 3)])
def test_an_interrupted_run_goes_on(folder, params, tmp_path, format, batches, done, monkeypatch):
    run(folder, params, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted_after(batches, patch)
        with pytest.raises(KeyboardInterrupt):
            run(folder, params, tmp_path / "cut", format=format)
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    seen = interrupted_after(99, monkeypatch)
    summary = run(folder, params, tmp_path / "cut", format=format)
    assert summary["skipped"] == done and summary["written"] == 5 - done and len(seen) == (2 if done else 5)
    assert_same(FeatureFolder(tmp_path / "whole"), FeatureFolder(tmp_path / "cut"))
    assert not leftovers(tmp_path / "cut")


def test_a_run_that_ended_right_after_a_shard_has_each_video_once(folder, params, tmp_path):
    run(folder, params, tmp_path, format="array_record")
    arrays = FeatureFolder(tmp_path)["a.mkv"]
    waiting = tmp_path / "waiting" / "a.mkv.waiting"
    waiting.parent.mkdir()
    waiting.write_bytes(b"packed already")
    (tmp_path / "features-00001.csv").write_text("name,label,windows\nx,0,1\n")  # whose shard was not written
    assert run(folder, params, tmp_path, format="array_record")["skipped"] == 5
    found = FeatureFolder(tmp_path)
    assert len(found) == 5 and not leftovers(tmp_path)
    np.testing.assert_array_equal(found["a.mkv"]["features"], arrays["features"])


@pytest.mark.parametrize("format", ["npz", "npy"])
def test_files_that_are_empty_or_cut_are_made_again(folder, params, tmp_path, format):
    options = {"name": "one.csv", "format": format}
    run(folder, params, tmp_path, **options)
    [file] = tmp_path.glob(f"*.{format}")
    whole = file.read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        file.write_bytes(whole[:size])
        counts = run(folder, params, tmp_path, **options)
        assert (counts["rewritten"], counts["skipped"]) == (1, 0) and len(file.read_bytes()) == len(whole)
    assert run(folder, params, tmp_path, **options)["skipped"] == 1


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_unreadable_videos_are_listed_and_tried_again(folder, params, tmp_path, format):
    for skipped in (0, 5):
        summary = run(folder, params, tmp_path, "bad.csv", format=format)
        assert (summary["skipped"], summary["unreadable"]) == (skipped, 1) and len(FeatureFolder(tmp_path)) == 5
    with open(tmp_path / "bad_files.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["path"] == f"{folder}/text.mp4" and "Invalid data" in row["reason"]


def test_a_video_that_breaks_half_way_has_no_file(folder, params, tmp_path, monkeypatch):
    stream = decode.stream_chosen

    def breaking(source, choose):
        for number, frame in stream(source, choose):
            if number > 25:
                raise decode.DecodeError(source, "damaged")
            yield number, frame

    monkeypatch.setattr(decode, "stream_chosen", breaking)
    summary = run(folder, params, tmp_path)
    assert summary["unreadable"] == 1 and set(FeatureFolder(tmp_path)) == set(COUNTS) - {"up/a.mp4"} and not leftovers(tmp_path)


def test_too_many_bad_videos_stop_the_run(folder, params, tmp_path):
    with pytest.raises(BadDataError, match="1 of 6 videos cannot be read, more than data.max_bad_fraction=0.1"):
        c = file_config(folder, "bad.csv")
        c.data.max_bad_fraction = 0.1
        extract_features(c, params, make_source(c.data, "val"), tmp_path, POOLED)
    assert not leftovers(tmp_path)


def test_half_precision_and_what_does_not_fit_it(folder, params, tmp_path):
    run(folder, params, tmp_path / "half", dtype="float16")
    run(folder, params, tmp_path / "whole")
    half, whole = FeatureFolder(tmp_path / "half")["a.mp4"], FeatureFolder(tmp_path / "whole")["a.mp4"]
    assert half["features"].dtype == np.float16
    np.testing.assert_allclose(half["features"], whole["features"], rtol=1e-3, atol=1e-3)
    large = jax.tree.map(np.array, params)
    large["norm"]["scale"] *= 1e6
    with pytest.raises(ValueError, match=r"a feature of \S+ does not fit float16: take float32"):
        run(folder, large, tmp_path / "large", dtype="float16")
    assert not leftovers(tmp_path)


def test_a_folder_of_something_else_and_wrong_arguments(folder, params, tmp_path):
    run(folder, params, tmp_path)
    for options, message in (
        (
            {"window_stride": 2},
            r"extract.window_stride, format and dtype \[0, 'npz', 'float32'\] and not \[2, 'npz', 'float32'\]",
        ),
        ({"dtype": "float16"}, "extract.window_stride, format and dtype"),
        ({"spec": FeatureSpec(0)}, "features.layer -1 and not 0"),
        ({"changes": {"data__stride": 2}}, "clips.stride 1 and not 2"),
    ):
        with pytest.raises(ConfigError, match=f"something else: .*{message}"):
            run(folder, params, tmp_path, **options)
    for options, message in (
        ({"format": "csv"}, "format is 'csv'; expected one of npz, array_record"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, float16"),
        ({"spec": FeatureSpec(7)}, "layer=7: the encoder has 2 blocks"),
    ):
        with pytest.raises(ValueError, match=message):
            run(folder, params, tmp_path / "new", **options)
    with pytest.raises(FileNotFoundError, match="new is not there: give the folder of features"):
        FeatureFolder(tmp_path / "new")


class Keys:
    def __init__(self, *keys):
        self._keys = keys

    def __len__(self):
        return len(self._keys)

    def key(self, index):
        return self._keys[index]


def test_names_never_collide():
    assert output_names(Keys("a", "b", "a", "a~2", "a", "b")) == ["a", "b", "a~2", "a~2~2", "a~3", "b~2"]


LONG = ["\u6f22" * 82 + ".mp4", "x" * 251 + ".mp4", "y" * 243 + ".mp4", "\u00e9" * 125 + ".mp4", "z~0123456789abcdef.mp4"]


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_long_names_have_features_under_shortened_names(folder, params, tmp_path, format):
    source = tmp_path / "videos"
    source.mkdir()
    for name in [*LONG, "x" * 250 + "y.mp4"]:  # the last differs from another only where names are cut
        videos.write_video(source / name, 5)
    c = file_config(folder)
    c.data.manifest = str(source)
    for written in (6, 0):
        summary = extract_features(c, params, make_source(c.data, "val"), tmp_path / "out", POOLED, format=format)
        assert (summary["written"], summary["skipped"], summary["unreadable"]) == (written, 6 - written, 0)
    features = FeatureFolder(tmp_path / "out")
    assert set(features) == {path.name for path in source.iterdir()} and not leftovers(tmp_path / "out")
    assert all(arrays["path"] == name for name, arrays in features.items())
    if format == "npz":  # what was written by earlier versions is where it was
        assert (tmp_path / "out" / ("y" * 243 + ".mp4.npz")).exists()


@pytest.mark.parametrize("form", ["npz", "array_record"])
def test_a_name_that_no_file_can_have_is_listed(folder, params, tmp_path, form):
    out = tmp_path / "out"
    out.mkdir()
    blocked = out / "up" if form == "npz" else out / "waiting" / "up"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_bytes(b"")  # a file where a folder would have to be
    (folder / "blocked.csv").write_text("\n".join([*LINES[:4], "a.mp4,0,val,0,0.5"]))
    c = file_config(folder, "blocked.csv")
    c.data.max_bad_fraction = 1.0
    # The folder of shards that are not full is gone after a run, and with it what blocked the name.
    for written, skipped in ((3, 0), (0, 3)) if form == "npz" else ((3, 0),):
        summary = extract_features(c, params, make_source(c.data, "val"), out, POOLED, format=form)
        assert (summary["written"], summary["skipped"], summary["unreadable"]) == (written, skipped, 1)
    with open(out / "bad_files.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["path"] == "up/a.mp4"
    assert row["reason"].startswith(
        "no file for its features can be written: a file is in its place; rename the video, or move away "
    )
    assert f"{blocked}/".startswith(row["reason"].partition("move away ")[2])  # long reasons are cut
    assert set(FeatureFolder(out)) == {"a.mp4", "a.mkv", "a.mp4@0.0-0.5"}


@pytest.mark.parametrize("format", ["npz", "array_record"])
def test_a_path_that_is_too_long_is_listed(folder, params, tmp_path, format):
    """Names of 3000 bytes of folders, which are short enough for the videos, and not below the longer path of the features."""
    source, deep = tmp_path / "v", pathlib.Path(*["d" * 200] * 15)
    (source / deep).mkdir(parents=True)
    videos.write_video(source / deep / "a.mp4", 5)
    videos.write_video(source / "b.mp4", 5)
    c = file_config(folder)
    c.data.manifest, c.data.max_bad_fraction = str(source), 1.0
    out = tmp_path / pathlib.Path(*["o" * 200] * 6)
    summary = extract_features(c, params, make_source(c.data, "val"), out, POOLED, format=format)
    assert (summary["written"], summary["unreadable"]) == (1, 1) and set(FeatureFolder(out)) == {"b.mp4"}
    assert "File name too long; rename the video" in (out / "bad_files.csv").read_text()


def test_a_folder_in_the_place_of_a_file(folder, params, tmp_path):
    (tmp_path / "a.mp4.npz").mkdir()
    c = file_config(folder, "one.csv")
    c.data.max_bad_fraction = 1.0
    summary = extract_features(c, params, make_source(c.data, "val"), tmp_path, POOLED)
    assert summary["unreadable"] == 1
    assert "a folder is in its place; rename the video, or move away /" in (tmp_path / "bad_files.csv").read_text()


def test_a_full_disk_stops_the_run(folder, params, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_files.NpzFiles, "begin", full)
    with pytest.raises(OSError, match="No space"):
        run(folder, params, tmp_path)
    assert not (tmp_path / "bad_files.csv").exists()


@pytest.mark.parametrize("name", ["a", "a/b", "x" * 300, "f/" + "\u6f22" * 90, "d" * 254 + "/a", "\udcff" * 250])
def test_shortened_names_fit_and_differ(name):
    short = feature_files.shortened(name, 247)
    assert len(os.fsencode(short.rpartition("/")[2])) <= 247 and short == feature_files.shortened(short, 247)
    assert (short == name) == (len(os.fsencode(name.rpartition("/")[2])) <= 247)
    assert feature_files.shortened(name + "y", 247) != short
