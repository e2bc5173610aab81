"""Packed sets, read by grain, by tensorflow-datasets without TensorFlow, and by the training."""

import math
import os
import pathlib
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from cvmae.data import pipeline, sources, worker_pool
from cvmae.data.manifest import read_manifest
from cvmae.data.prepare import Options, pack, prepare
from cvmae.data.prepare.outputs import Row
from tests.data import layouts, videos
from tests.data.configs import small_config

WITHOUT_TENSORFLOW = """
import sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
print(len(source), type(source[0]["video"]).__name__, "tensorflow" in sys.modules)
"""


def run(function, jobs):
    """Calls in this process, which is quicker."""
    assert function == pack.FUNCTION
    return [(job, pack.write_shard(job)) for job in jobs]


def rows(folder, count=5, **parts):
    """Videos 0, 1, ... in the folder, the last one without a class and in val."""
    found = []
    for number in range(count):
        layouts.put(folder / f"{number}.mp4", number)
        label, split = (("up", "down")[number % 2], "train") if number < count - 1 else ("", "val")
        found.append(
            (Row(f"{number}.mp4", f"{number}.mp4", label, bytes=(folder / f"{number}.mp4").stat().st_size, **parts), split)
        )
    return found


def make(folder, videos_of, shard_bytes=pack.SHARD_BYTES, run=run, classes=("up", "down")):
    (folder / "temporary").mkdir(exist_ok=True)
    pack.pack(str(folder / "packed"), str(folder), "folder", videos_of, classes, run, str(folder / "temporary"), shard_bytes)
    return folder / "packed"


def test_a_whole_run_is_read_by_the_training(tmp_path):
    layouts.hmdb51(tmp_path)
    places = [str(tmp_path / name) for name in ("videos", "out", "labels")]
    prepare(Options("hmdb51", *places, transcode=32, pack=True, workers=1))
    for split in ("split1", "split3"):
        name = str(tmp_path / "out" / "packed" / split)
        config = small_config(data__source="tfds", data__tfds__name=name, data__frame_size=(32, 64), batch_size=3)
        source = sources.make_source(config.data, "train")
        assert source.class_names == layouts.HMDB_CLASSES
        files = read_manifest(str(tmp_path / "out" / f"{split}.csv"), "train")
        assert [source[i].label for i in range(3)] == [entry.label for entry in files.entries]
        assert [source[i].payload for i in range(3)] == [pathlib.Path(entry.path).read_bytes() for entry in files.entries]
        with pipeline.make_loader(config, source) as loader:
            batch = next(loader)
            assert not np.asarray(batch["failures"]).any()
            assert [videos.number_of(video[0]) // 30 for video in batch["video"]] == list(batch["label"])


def test_records_for_grain_and_for_tfds(tmp_path):
    found = rows(tmp_path)
    packed = make(tmp_path, found, shard_bytes=2 * found[0][0].bytes)
    shards = sorted(packed.glob("folder-train.array_record-*"))
    assert len(shards) >= 2
    features = tfds.builder_from_directory(str(packed)).info.features
    raw = grain.sources.ArrayRecordDataSource([str(path) for path in shards])
    read = [features.deserialize_example_np(raw[i]) for i in range(len(raw))]
    assert [record["name"].decode() for record in read] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert [record["label"] for record in read] == [0, 1, 0, 1] and features["label"].names == ["up", "down"]
    assert [record["video"] for record in read] == [(tmp_path / f"{n}.mp4").read_bytes() for n in range(4)]
    source = tfds.builder_from_directory(str(packed)).as_data_source("val")
    assert len(source) == 1 and source[0]["label"] == -1 and "start" not in source[0]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, str(packed)], capture_output=True, text=True)
    assert done.stdout.split() == ["4", "bytes", "False"], done.stderr


def test_parts_travel_too(tmp_path):
    packed = str(make(tmp_path, rows(tmp_path, start=1.5)))
    record = tfds.builder_from_directory(packed).as_data_source("train")[0]
    assert record["start"] == 1.5 and math.isnan(record["end"])
    record = sources.TfdsSource(packed, "", "video", "label", "train")[0]
    assert (record.start, record.end) == (1.5, None)


def test_without_classes(tmp_path):
    found = [(row, split) for row, split in rows(tmp_path) if not row.label]
    source = tfds.builder_from_directory(str(make(tmp_path, found, classes=()))).as_data_source("val")
    assert source[0]["label"] == -1


def test_bytes_that_end_in_zeros_stay_whole(tmp_path):
    found = rows(tmp_path, 2)
    (tmp_path / "0.mp4").write_bytes(b"\0\0video\0\0\0")
    source = tfds.builder_from_directory(str(make(tmp_path, found))).as_data_source("train")
    assert source[0]["video"] == b"\0\0video\0\0\0"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    found = rows(tmp_path)

    def full(function, jobs):
        os.symlink("/dev/full", tmp_path / "temporary" / f"{os.path.basename(jobs[0]['target'])}.{os.getpid()}")
        return run(function, jobs)

    message = (
        r"^.*array_record-00000-of-00001 cannot be written \(No space left on device\): free some room there, and run the same"
    )
    with pytest.raises(worker_pool.StopRun, match=message) as stopped:
        make(tmp_path, found, run=full)
    assert "\n" not in str(stopped.value) and not list((tmp_path / "temporary").iterdir())
    make(tmp_path, found)


def test_an_interrupted_run_goes_on_with_the_shards_it_has(tmp_path):
    found = rows(tmp_path)
    written = []

    def until_the_third(function, jobs):
        for job in jobs:
            if len(written) == 2:
                raise KeyboardInterrupt
            yield run(function, [job])[0]
            written.append(job["target"])

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, found, shard_bytes=1, run=until_the_third)
    assert not (tmp_path / "packed").exists()

    def the_rest(function, jobs):
        assert not {job["target"] for job in jobs} & set(written)
        return run(function, jobs)

    packed = make(tmp_path, found, shard_bytes=1, run=the_rest)
    assert len(list(packed.glob("*.array_record-*"))) == 5 and not list(tmp_path.glob("packed.building*"))
    before = (packed / "plan.json").stat().st_mtime_ns
    make(tmp_path, found, shard_bytes=1, run=None)  # nothing to do
    assert (packed / "plan.json").stat().st_mtime_ns == before


def test_a_set_of_other_videos_takes_its_place(tmp_path):
    found = rows(tmp_path)
    make(tmp_path, found)
    (tmp_path / "packed.building-0123").mkdir()  # of a run that nobody went on with
    layouts.put(tmp_path / "0.mp4", 7)
    packed = make(tmp_path, found)
    source = tfds.builder_from_directory(str(packed)).as_data_source("train")
    assert source[0]["video"] == layouts.video_bytes(7)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("packed")) == ["packed"]


def test_a_shard_that_cannot_be_written_stops_the_run(tmp_path):
    found = rows(tmp_path)

    def gone(function, jobs):
        (tmp_path / "2.mp4").unlink()
        return run(function, jobs)

    with pytest.raises(worker_pool.StopRun, match=r"2.mp4 cannot be read \(No such file or directory\)"):
        make(tmp_path, found, run=gone)
    with pytest.raises(worker_pool.StopRun, match="array_record-00000-of-00001: its process was ended"):
        layouts.put(tmp_path / "2.mp4", 2)
        make(tmp_path, found, run=lambda function, jobs: [(job, worker_pool.Failure("its process was ended")) for job in jobs])
    assert not (tmp_path / "packed").exists()
