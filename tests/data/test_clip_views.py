import dataclasses

import numpy as np
import pytest

from cvmae.data import clips, pipeline, sources
from cvmae.data.bad_files import unpack_failures
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.data.pipeline import clip_spec, make_eval_loader, make_loader
from tests.data import videos
from tests.data.configs import small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five videos of 20 frames (number i starts at frame number 30 i), and a manifest; another with number 1 missing."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,label,split"]
    for i in range(5):
        videos.write_video(folder / f"{i}.mp4", 20, first=30 * i)
        lines.append(f"{i}.mp4,{i % 3},train")
    (folder / "list.csv").write_text("\n".join(lines))
    (folder / "bad.csv").write_text("\n".join(lines).replace("\n1.mp4", "\ngone.mp4"))
    return folder


def file_config(folder, name="list.csv", **changes):
    return small_config(**{"data__source": "files", "data__manifest": str(folder / name), "data__frame_size": (32, 64)} | changes)


def read(config, batch_size, views, start=0):
    source = sources.make_source(config.data, "train")
    with make_view_loader(config, source, batch_size, views, start) as loader:
        return [{key: np.array(value) for key, value in batch.items()} for batch in loader]


def rows(*arguments, **named):
    """Returns the columns of all batches, concatenated, of the valid examples alone."""
    batches = read(*arguments, **named)
    keep = np.concatenate([batch["valid"] for batch in batches])
    return {key: np.concatenate([batch[key] for batch in batches])[keep] for key in batches[0]}


def test_shapes_and_dtypes_of_a_batch():
    batch = read(small_config(), 4, TestViews(2, 3))[0]
    shapes = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert shapes == {
        "video": ((4, 3, 4, 16, 24, 3), "uint8"),
        "label": ((4,), "int32"),
        "index": ((4,), "int64"),
        "clip": ((4,), "int32"),
        "valid": ((4,), "bool"),
        "failures": ((4, 512), "uint8"),
    }
    assert batch["index"].tolist() == [0, 0, 1, 1] and batch["clip"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 40])
def test_every_clip_comes_once_for_any_batch_size(batch_size):
    batches = read(small_config(), batch_size, TestViews(3))
    assert {len(batch["index"]) for batch in batches} == {batch_size} and len(batches) == -(-30 // batch_size)
    examples = rows(small_config(), batch_size, TestViews(3))
    assert list(zip(examples["index"], examples["clip"])) == [(i, c) for i in range(10) for c in range(3)]
    assert (examples["label"] == examples["index"] % 3).all()
    padding = ~batches[-1]["valid"]
    assert not batches[-1]["video"][padding].any() and (batches[-1]["label"][padding] == -1).all()


# 20 frames; a clip has 4, at stride 2 it spans 7. VideoMAE: start = int(number · (frames − span) / (clips − 1)).
@pytest.mark.parametrize(
    "changes, count, expected",
    [
        ({"data__stride": 2}, 1, [[6, 8, 10, 12]]),
        ({"data__stride": 2}, 3, [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]),
        ({"data__stride": 2, "data__clip_sampling": "middle"}, 2, [[0, 2, 4, 6], [13, 15, 17, 19]]),
        ({"data__stride": 9}, 2, [[0, 9, 18, 19], [0, 9, 18, 19]]),
        # 20 frames at 12 a second; clip frames 0.25 s apart are 3 frames apart and leave 10 / 12 s to spare.
        ({"data__fps": 4.0}, 3, [[0, 3, 6, 9], [5, 8, 11, 14], [10, 13, 16, 19]]),
        ({"data__fps": 4.0}, 1, [[5, 8, 11, 14]]),
        # Segments of 5 frames: their centers; the quarters, 1.25 and 3.75, rounded down.
        ({"data__clip_sampling": "uniform"}, 1, [[2, 7, 12, 17]]),
        ({"data__clip_sampling": "uniform"}, 2, [[1, 6, 11, 16], [3, 8, 13, 18]]),
    ],
)
def test_positions_of_clips(folder, changes, count, expected):
    examples = rows(file_config(folder, **changes), 4, TestViews(count))
    assert len(examples["video"]) == 5 * count
    for video, index, clip in zip(examples["video"], examples["index"], examples["clip"]):
        assert [number - 30 * index for number in videos.numbers_of(video[0])] == expected[clip]


def test_many_clips_of_segments_leave_no_frame_out():
    spec = dataclasses.replace(clip_spec(small_config()), sampling="uniform")
    views = [clips.ClipView(clip, 5) for clip in range(5)]
    frames = [clips.clip_indices(spec, np.arange(20) / 10, np.random.default_rng(0), view=view) for view in views]
    assert np.sort(np.concatenate(frames)).tolist() == list(range(20))


class Pictures:
    """Source of one still picture, 10 × 4 pixels, in which the pixels along the long side are numbered."""

    class_names, labels = (), np.zeros(1, np.int32)

    def __init__(self, upright):
        columns = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None], (4, 10, 3))
        self._frames = np.stack([columns.swapaxes(0, 1) if upright else columns] * 4)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return sources.Record("picture", 0, None, None, self._frames)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("count, expected", [(1, [3]), (2, [0, 6]), (3, [0, 3, 6]), (7, list(range(7)))])
def test_crops_are_the_right_pixels(upright, count, expected):
    config = small_config(data__frame_size=(4, 4), data__stride=1)
    with make_view_loader(config, Pictures(upright), 1, TestViews(1, count)) as loader:
        [video] = np.array(next(loader)["video"])
    for crop, first in zip(video, expected):
        assert (crop == crop[:1]).all()
        frame = crop[0, :, :, 0].T if upright else crop[0, :, :, 0]
        assert (frame == first + np.arange(4)).all()


def test_crops_are_resized_to_the_frame_size(folder):
    examples = rows(file_config(folder, data__frame_size=(16, 16)), 5, TestViews(1, 3))
    clip = rows(file_config(folder), 5, TestViews())["video"][:, 0].astype(int)  # 32 × 64
    for crop, start in enumerate((0, 16, 32)):
        halved = clip[:, :, :, start : start + 32].reshape(5, 4, 16, 2, 16, 2, 3).mean((3, 5))
        assert np.abs(examples["video"][:, crop] - halved).max() <= 1


def test_a_single_view_equals_the_evaluation_batch(folder):
    config = file_config(folder, "bad.csv", data__frame_size=(16, 16))
    source = sources.make_source(config.data, "train")
    with make_eval_loader(config, source, 3) as loader:
        for one, other in zip(read(config, 3, TestViews()), loader, strict=True):
            np.testing.assert_array_equal(one["video"][:, 0], other["video"])
            for name in ("label", "index", "valid", "failures"):
                np.testing.assert_array_equal(one[name], other[name])


def test_bad_files_are_marked_and_not_replaced(folder):
    batches = read(file_config(folder, "bad.csv"), 5, TestViews(2))
    assert np.concatenate([b["valid"] for b in batches]).tolist() == [True] * 2 + [False] * 2 + [True] * 6
    failures = unpack_failures(np.concatenate([b["failures"] for b in batches]))
    assert [name for name, _ in failures] == [f"{folder}/gone.mp4"] * 2
    assert all(reason.startswith("No such file or directory (") for _, reason in failures)
    assert not batches[0]["video"][2:4].any() and (batches[0]["label"][2:4] == -1).all()
    assert batches[0]["index"].tolist() == [0, 0, 1, 1, 2]


def test_loading_can_start_at_any_example(folder):
    config = file_config(folder)
    complete = rows(config, 3, TestViews(2, 2))
    for start in (0, 1, 6, 9):
        rest = rows(config, 3, TestViews(2, 2), start=start)
        assert list(zip(rest["index"], rest["clip"])) == [divmod(r, 2) for r in range(start, 10)]
        for key in complete:
            np.testing.assert_array_equal(rest[key], complete[key][start:])
    assert read(config, 3, TestViews(2, 2), start=10) == []


def test_workers_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(pipeline, "EXAMPLES_OF_A_WORKER", 1)
    views = TestViews(2, 3)
    alone, helped = (read(file_config(folder, "bad.csv", data__workers=w, data__threads=w), 4, views) for w in (0, 1))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_invalid_views_are_refused():
    with pytest.raises(ValueError, match="crops must be at least 1, got 0"):
        TestViews(2, 0)
    with pytest.raises(ValueError, match="clips must be at least 1"):
        TestViews(0)
    with pytest.raises(ValueError, match="crops=3 needs data.fit=crop, got 'pad'"):
        read(small_config(data__fit="pad"), 1, TestViews(1, 3))


def test_a_config_without_image_branch_samples_no_frames():
    config = small_config().copy_and_resolve_references().unlock()
    del config.image_branch
    source = sources.make_source(config.data, "train")
    assert clip_spec(config).num_sampled == 0
    with make_loader(config, source) as loader:
        assert next(loader)["frame_index"].shape == (4, 0)
    with make_view_loader(config, source, 2, TestViews()) as loader:
        assert next(loader)["valid"].all()
