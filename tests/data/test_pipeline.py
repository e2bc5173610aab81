import dataclasses
import itertools
import os
import pathlib
import re
import time

import numpy as np
import pytest

from cvmae.data import clip_views, pipeline, sources
from cvmae.data.bad_files import BadDataError, unpack_failures
from cvmae.data.label_texts import UNLABELED
from cvmae.data.manifest import read_manifest
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.prepare.text import PrepareError
from cvmae.storage.cache import RemoteFile
from tests.data import videos
from tests.data.batches import assert_same_batches
from tests.data.configs import small_config


class HangingFile(RemoteFile):
    """File whose opening waits, in C, for a writer that never comes."""

    def open(self):
        reading, _ = os.pipe()
        return os.read(reading, 1)


class HangingSource(sources.FileSource):
    """Source whose record 0 hangs."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        return record if index else dataclasses.replace(record, payload=HangingFile("gs://bucket/video.mp4"))


def take(config, steps, source=None, **where):
    source = source or sources.make_source(config.data, config.data.split)
    with pipeline.make_loader(config, source, **where) as loader:
        return [{key: np.array(value) for key, value in batch.items()} for batch in itertools.islice(loader, steps)]


def evaluate(config, batch_size):
    source = sources.make_source(config.data, config.data.eval_split)
    with pipeline.make_eval_loader(config, source, batch_size) as loader:
        return [{key: np.array(value) for key, value in batch.items()} for batch in loader]


def differ(some, others):
    return any((one["video"] != other["video"]).any() for one, other in zip(some, others))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve videos (number i starts at frame number 10 i), manifests of which 0 to 12 are missing."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,label,split,start,end"]
    for i in range(12):
        videos.write_video(folder / f"{i}.mp4", 10, first=10 * i)
        lines.append(f"{i}.mp4,{i % 3},train,,")
        lines.append(f"{i}.mp4,{i % 3},val,0.25,0.75")
    (folder / "list.csv").write_text("\n".join(lines))
    for bad in (2, 12):
        text = "\n".join(lines)
        for i in range(bad):
            text = text.replace(f"\n{i}.mp4,", f"\ngone{i}.mp4,")
        (folder / f"bad{bad}.csv").write_text(text)
    return folder


def file_config(folder, name="list.csv", **changes):
    return small_config(**{"data__source": "files", "data__manifest": str(folder / name), "data__frame_size": (32, 64)} | changes)


def test_shapes_and_dtypes_of_a_batch():
    [batch] = take(small_config(image_branch__frames=2), 1)
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "video": ((4, 4, 16, 24, 3), "uint8"),
        "frame_index": ((4, 2), "int32"),
        "label": ((4,), "int32"),
        "index": ((4,), "int64"),
        "failures": ((4, 512), "uint8"),
        "draw": ((4, 2), "int64"),
    }
    np.testing.assert_array_equal(batch["label"], batch["index"] % 3)


def test_clips_hold_the_frames_of_their_files(folder):
    for batch in take(file_config(folder, data__stride=2), 3):
        for video, index, label in zip(batch["video"], batch["index"], batch["label"]):
            numbers = videos.numbers_of(video)
            assert numbers == [numbers[0] + 2 * t for t in range(4)]
            assert numbers[0] // 10 == index and label == index % 3


def test_every_epoch_has_every_record_once_in_a_new_order():
    batches = take(small_config(batch_size=5), 4)
    index = np.concatenate([batch["index"] for batch in batches])
    assert sorted(index[:10]) == sorted(index[10:]) == list(range(10))
    assert index[:10].tolist() != index[10:].tolist() != sorted(index[10:])


def test_batches_depend_on_the_seed_alone(folder):
    config = file_config(folder)
    assert_same_batches(take(config, 3), take(config, 3))
    assert differ(take(config, 3), take(file_config(folder, seed=1), 3))


@pytest.mark.parametrize("changes", [{"data__workers": 2, "data__threads": 1}, {"data__threads": 2, "data__prefetch": 3}])
def test_workers_and_threads_change_nothing(folder, changes):
    assert_same_batches(take(file_config(folder, "bad2.csv"), 6), take(file_config(folder, "bad2.csv", **changes), 6))


def test_processes_divide_the_same_global_batch(folder):
    config = file_config(folder)
    complete = take(config, 4)
    for count in (2, 4):
        parts = [take(config, 4, process_index=p, process_count=count) for p in range(count)]
        joined = [{key: np.concatenate([part[step][key] for part in parts]) for key in complete[0]} for step in range(4)]
        assert_same_batches(joined, complete)


def test_starting_at_a_step_equals_the_uninterrupted_run(folder):
    config = file_config(folder)
    complete = take(config, 8)
    assert_same_batches(take(config, 3, start_step=5), complete[5:])
    parts = [take(config, 2, start_step=6, process_index=p, process_count=2) for p in (0, 1)]
    assert_same_batches([{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts)], complete[6:])


def test_a_batch_size_not_divisible_by_the_processes_is_refused():
    with pytest.raises(ValueError, match="batch_size=4 is not divisible by 3"):
        take(small_config(), 1, process_count=3)


def test_a_bad_file_is_replaced_the_same_way_each_time_and_reported(folder):
    config = file_config(folder, "bad2.csv")
    batches = take(config, 6)
    assert_same_batches(batches, take(config, 6))
    reports = np.concatenate([batch["failures"] for batch in batches])
    said = dict(unpack_failures(reports))
    lines = {f"{folder}/gone{i}.mp4": f"/bad2.csv:{2 + 2 * i}, no data.root, so from its folder)" for i in (0, 1)}
    assert said.keys() == lines.keys() and all(said[name].endswith(lines[name]) for name in lines)
    assert all(reason.startswith("No such file or directory (") for reason in said.values())
    index = np.concatenate([batch["index"] for batch in batches])
    assert not set(index) & {0, 1} and len(set(index[reports[:, 0] != 0])) > 1
    # The rows of good files are those of a run in which nothing was bad.
    good = reports[:, 0] == 0
    clean = take(file_config(folder), 6)
    for key in ("video", "index", "frame_index"):
        np.testing.assert_array_equal(
            np.concatenate([b[key] for b in batches])[good], np.concatenate([b[key] for b in clean])[good]
        )


@pytest.mark.parametrize(
    ("name", "line", "root", "place"),
    [
        ("list.csv", "gone.mp4,0,train", "", "list.csv:2, no data.root, so from its folder"),
        ("list.csv", "a/gone.mp4,0,train", "/videos", "list.csv:2, data.root=/videos"),
        ("list.csv", "/elsewhere/gone.mp4,0,train", "/videos", "list.csv:2"),
        ("list.jsonl", '\n{"path": "gone.mp4", "label": 0, "split": "train"}', "other", "list.jsonl:2, data.root=other"),
        (f"{'folder' * 20}.csv", "gone.mp4,0,train", "other", f"...er{'folder' * 9}.csv:2, data.root=other"),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_line_and_the_root(name, line, root, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path(name).write_text(line if name.endswith("jsonl") else f"path,label,split\n{line}\n")
    config = small_config(data__source="files", data__manifest=name, data__root=root)
    with pytest.raises(BadDataError, match=re.escape(f"; the first: No such file or directory ({place})")):
        take(config, 1)
    with pytest.raises(PrepareError, match=re.escape(f": No such file or directory ({place}); remove it from the manifest")):
        write_shards(name, "out", root=root)


def test_data_that_is_bad_throughout_stops_with_the_reason(folder):
    with pytest.raises(BadDataError, match="8 videos in a row cannot be read .*gone.*No such file"):
        take(file_config(folder, "bad12.csv"), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_hanging_file_is_cut_off(folder, workers):
    source = HangingSource(read_manifest(str(folder / "list.csv"), "train"))
    batches = take(file_config(folder, data__timeout_s=0.5, data__workers=workers), 3, source)
    failures = unpack_failures(np.concatenate([batch["failures"] for batch in batches]))
    assert failures == [(f"{folder}/0.mp4", f"no answer within 0.5 s (data.timeout_s) ({folder}/list.csv:2)")]


def test_a_named_pipe_is_not_opened(folder):
    os.mkfifo(folder / "pipe.mp4")
    (folder / "pipe.csv").write_text((folder / "list.csv").read_text().replace("\n0.mp4,", "\npipe.mp4,"))
    batches = take(file_config(folder, "pipe.csv", data__timeout_s=0), 3)
    failures = unpack_failures(np.concatenate([batch["failures"] for batch in batches]))
    assert failures == [(f"{folder}/pipe.mp4", f"no file but a named pipe ({folder}/pipe.csv:2)")]


def test_a_part_without_frames_is_a_bad_file(folder):
    (folder / "late.csv").write_text("path,label,split,start\n0.mp4,0,train,99\n1.mp4,0,train,\n")
    reports = np.concatenate([batch["failures"] for batch in take(file_config(folder, "late.csv"), 2)])
    assert {reason.partition(";")[0] for _, reason in unpack_failures(reports)} == {"no frame from 99 s to its end"}


def test_evaluation_has_every_record_once_in_order(folder):
    batches = evaluate(file_config(folder), 5)
    assert [batch["valid"].tolist() for batch in batches] == [[True] * 5, [True] * 5, [True] * 2 + [False] * 3]
    assert np.concatenate([batch["index"] for batch in batches])[:12].tolist() == list(range(12))
    assert not batches[-1]["video"][2:].any() and (batches[-1]["label"][2:] == UNLABELED).all()
    for i, video in enumerate(np.concatenate([batch["video"] for batch in batches])[:12]):
        # 0.25 to 0.75 s at 12 frames per second: frames 3 to 8, of which the middle four.
        assert videos.numbers_of(video) == [10 * i + t for t in (4, 5, 6, 7)]
    assert {int(i) for batch in batches for i in batch["frame_index"][batch["valid"]].ravel()} == {1}


def test_evaluation_marks_bad_files_and_does_not_replace_them(folder):
    batches = evaluate(file_config(folder, "bad2.csv"), 6)
    assert np.concatenate([batch["valid"] for batch in batches]).tolist() == [False] * 2 + [True] * 10
    assert len(unpack_failures(np.concatenate([batch["failures"] for batch in batches]))) == 2


def test_evaluation_with_workers_is_the_same(folder, monkeypatch):
    monkeypatch.setattr(pipeline, "EXAMPLES_OF_A_WORKER", 1)
    assert_same_batches(evaluate(file_config(folder), 5), evaluate(file_config(folder, data__workers=2, data__threads=1), 5))


CHANGES = [
    {"data__clip_sampling": "middle"},
    {"data__clip_sampling": "uniform"},
    {"data__stride": 2},
    {"data__fps": 6.0},
    {"image_branch__frame_sampling": "first", "image_branch__frames": 1},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_sampling_fields_take_effect(folder, changes):
    config = file_config(folder, **changes)
    [batch] = take(config, 1)
    clip = np.array([videos.numbers_of(video) for video in batch["video"]]) - 10 * batch["index"][:, None]
    if "data__stride" in changes or "data__fps" in changes:
        assert (np.diff(clip) == 2).all()
    elif changes.get("data__clip_sampling") == "middle":
        assert (clip == [3, 4, 5, 6]).all()
    elif changes.get("data__clip_sampling") == "uniform":
        assert (clip == [1, 3, 6, 8]).all()
    else:
        assert (batch["frame_index"] == 0).all()


def test_clips_for_shifted_views_are_longer_and_sampled_frames_are_of_the_first_view(folder):
    shifted = file_config(folder, augment__plus_shift=3, image_branch__frames=4)
    [batch] = take(shifted, 1)
    clip = np.array([videos.numbers_of(video) for video in batch["video"]]) - 10 * batch["index"][:, None]
    assert clip.shape == (4, 7) and (np.diff(clip) == 1).all()
    assert (batch["frame_index"] == np.arange(4)).all()
    assert evaluate(shifted, 4)[0]["video"].shape[1] == 7
    source = sources.make_source(shifted.data, "val")
    with clip_views.make_view_loader(shifted, source, 4, clip_views.TestViews(1, 1)) as loader:  # of features
        assert next(iter(loader))["video"].shape[-4] == 4


def test_shape_fields_take_effect(folder):
    padded, stretched, cropped = (
        take(file_config(folder, data__frame_size=(32, 32), data__fit=fit, data__num_frames=3), 1)[0]["video"]
        for fit in ("pad", "stretch", "crop")
    )
    assert padded.shape == stretched.shape == cropped.shape == (4, 3, 32, 32, 3)
    assert not padded[:, :, :8].any() and stretched[:, :, :8].any()
    assert (stretched != cropped).any()


def test_memory_is_bounded_by_prefetch(folder):
    """The loader reads `prefetch` batches ahead, and no further."""
    source = sources.make_source(file_config(folder).data, "train")
    counted = CountingSource(source)
    with pipeline.make_loader(file_config(folder, data__threads=1, data__prefetch=3), counted) as loader:
        next(loader)
        time.sleep(0.5)
        assert counted.reads <= 4 * (1 + 3 + 1)
    counted = CountingSource(source)  # threads of the first loader may still read
    with pipeline.make_loader(file_config(folder), counted) as loader:
        next(loader)
        time.sleep(0.1)
        assert counted.reads == 4


class CountingSource:
    class_names = ()

    def __init__(self, source):
        self._source, self.reads = source, 0

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        self.reads += 1
        return self._source[index]


class ProcessSource(CountingSource):
    """Source whose labels are the id of the process that reads."""

    def __getitem__(self, index):
        return dataclasses.replace(self._source[index], label=os.getpid())


def test_workers_are_processes():
    source = ProcessSource(sources.make_source(small_config().data, "train"))
    for workers in (0, 2):
        with pipeline.make_loader(small_config(data__workers=workers), source) as loader:
            readers = {int(pid) for _ in range(4) for pid in next(loader)["label"]}
        assert len(readers) == max(1, workers) and (os.getpid() in readers) == (workers == 0)


def test_an_evaluation_starts_no_more_workers_than_its_clips_are_worth(monkeypatch):
    monkeypatch.setattr(pipeline, "EXAMPLES_OF_A_WORKER", 4)
    c = small_config(data__workers=3, data__threads=1)
    # The second has clips for two workers in a single batch.
    for clips, size, workers in ((3, 3, 0), (8, 8, 1)):
        source = ProcessSource(sources.make_source(small_config(data__synthetic__clips=clips).data, "train"))
        with pipeline.make_eval_loader(c, source, size) as loader:
            readers = {int(pid) for batch in loader for pid in batch["label"]}
        assert len(readers) == max(1, workers) and (os.getpid() in readers) == (workers == 0)


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match="fit must be one of crop, stretch, pad, got 'zoom'"):
        take(small_config(data__fit="zoom"), 1)
