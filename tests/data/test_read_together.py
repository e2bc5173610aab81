"""Clips of a video that are read together: which frames, in training and in tests, and that they are those of a plain full decode."""

import dataclasses
import itertools

import av
import ml_collections
import numpy as np
import pytest

from cvmae.data import clips, pipeline, sources
from cvmae.data.clip_views import TestViews, make_view_loader
from tests.data import videos
from tests.data.batches import assert_same_batches
from tests.data.configs import small_config

SPEC = clips.ClipSpec(4, 2, 0.0, 32, 64, "crop", "random", 0, "middle", clips=3)  # a clip spans 7 frames
FRAMES = 40  # three parts of 13, 13 and 14


def frames(spec, seed=0, count=FRAMES, view=clips.MIDDLE, **part):
    """The frames of a video at 10 a second, [N, T]."""
    found = clips.clip_indices(spec, np.arange(count) / 10, np.random.default_rng(seed), view=view, **part)
    return found.reshape(spec.clips, spec.num_frames)


@pytest.mark.parametrize("fps", [0.0, 10.0])
def test_each_clip_begins_anywhere_in_its_part_of_the_video(fps):
    drawn = np.stack([frames(dataclasses.replace(SPEC, fps=fps), seed) for seed in range(400)])
    assert (np.diff(drawn, axis=-1) == 2).all()
    first = drawn[:, :, 0]
    begins = [sorted(set(first[:, clip].tolist())) for clip in range(3)]
    # Parts of 13, 13 and 14 frames; or of 1.3 s, from the first frame to the last, of which a clip takes 0.6.
    assert begins == [list(range(0, 7)), list(range(13, 20)), list(range(26, 33 if fps else 34))]
    assert len(np.unique(first, axis=0)) > 150, "the clips of a video are drawn together"


@pytest.mark.parametrize("fps", [0.0, 10.0])
def test_clips_that_are_longer_than_their_part_are_evenly_spaced(fps):
    """In tests all are, and each is then within its part where it fits there."""
    spec = dataclasses.replace(SPEC, fps=fps)
    for seed in range(5):
        assert frames(spec, seed, 13)[:, 0].tolist() == [0, 3, 6]
        assert frames(spec, seed, 6).tolist() == [[0, 2, 4, 5]] * 3  # as those of V-JEPA 2 of a video that is shorter than a clip
    for count in (21, 40, 41):
        first = frames(spec.deterministic(), 0, count)[:, 0]
        assert first.tolist() == [0, (count - 7) // 2, count - 7]


def test_parts_are_of_the_part_of_the_video_that_a_row_names():
    for seed in range(50):
        assert frames(SPEC, seed, start=1.0, end=3.1).tolist() == (10 + 7 * np.arange(3)[:, None] + [0, 2, 4, 6]).tolist()


def test_one_clip_is_drawn_as_ever():
    """By the formulas of before, with the same draws left for what follows."""
    for seed, count, fps in itertools.product(range(20), (3, 7, 40), (0.0, 10.0)):
        spec, rng = dataclasses.replace(SPEC, clips=1, fps=fps), np.random.default_rng(seed)
        own, times = np.random.default_rng(seed), np.arange(count) / 10
        found = clips.clip_indices(spec, times, own)
        if fps:
            first = times[0] + max(0.0, times[-1] - times[0] - 3 * (2 / fps)) * rng.random()
            expected = clips.displayed_frames(times, first + np.arange(4) * (2 / fps))
        else:
            expected = int(rng.integers(max(0, count - 7) + 1)) + 2 * np.arange(4)
        assert found.tolist() == np.minimum(expected, count - 1).tolist() and own.random() == rng.random()


@pytest.mark.parametrize("sampling", ["middle", "uniform"])
def test_groups_of_a_test_divide_its_clips(sampling):
    """Group g of 2 has every second one of the 6 clips that a test would average over."""
    spec = dataclasses.replace(SPEC, sampling=sampling)
    single = dataclasses.replace(spec, clips=1)
    every = [frames(single, view=clips.ClipView(clip, 6))[0].tolist() for clip in range(6)]
    for group in range(2):
        assert frames(spec, view=clips.ClipView(group, 2)).tolist() == every[group::2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six videos of 40 frames (number i begins at frame number 40 i)."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        videos.write_video(folder / f"{i}.mp4", FRAMES, first=40 * i)
    (folder / "list.csv").write_text("\n".join(["path,label,split", *(f"{i}.mp4,{i % 3},train" for i in range(6))]))
    return folder


def config(folder, together=3, **changes):
    fields = {
        "data__source": "files",
        "data__manifest": str(folder / "list.csv"),
        "data__frame_size": (32, 64),
        "data__stride": 2,
    }
    c = small_config(**(fields | changes)).copy_and_resolve_references().unlock()
    del c.image_branch
    c.probe = ml_collections.ConfigDict({"clips": together})
    return c.lock()


def decoded(folder):
    """All frames of every file, by a plain decode: {record: uint8 [40, H, W, 3]}."""
    found = {}
    for i in range(6):
        with av.open(str(folder / f"{i}.mp4")) as container:
            found[i] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return found


def training(c, steps, **where):
    with pipeline.make_loader(c, sources.make_source(c.data, "train"), **where) as loader:
        return [{key: np.array(value) for key, value in batch.items()} for batch in itertools.islice(loader, steps)]


@pytest.mark.parametrize(
    "changes", [{}, {"data__clip_sampling": "uniform"}, {"data__clip_sampling": "middle", "data__stride": 6}]
)
def test_the_frames_of_training_are_those_of_a_full_decode(folder, changes):
    whole, spec = decoded(folder), pipeline.clip_spec(config(folder, **changes))
    for batch in training(config(folder, **changes), 3):
        for video, index in zip(batch["video"], batch["index"]):
            assert video.shape == (12, 32, 64, 3)
            numbers = np.array(videos.numbers_of(video)) - 40 * index
            np.testing.assert_array_equal(video, whole[index][numbers])
            if changes:
                assert numbers.tolist() == frames(spec).ravel().tolist()
            else:
                low, high = FRAMES * np.arange(3)[:, None] // 3, FRAMES * np.arange(1, 4)[:, None] // 3
                found = numbers.reshape(3, 4)
                assert (np.diff(found) == 2).all() and (low <= found).all() and (found < high).all()


def test_the_frames_of_a_test_are_those_of_a_full_decode(folder):
    whole, c = decoded(folder), config(folder)
    spec = pipeline.clip_spec(c).deterministic()
    with make_view_loader(c, sources.make_source(c.data, "train"), 5, TestViews(2, 1)) as loader:
        rows = [row for batch in loader for row in zip(batch["video"], batch["index"], batch["clip"], batch["valid"]) if row[-1]]
    assert [(index, group) for _, index, group, _ in rows] == [(i, g) for i in range(6) for g in range(2)]
    for video, index, group, _ in rows:
        expected = frames(spec, view=clips.ClipView(int(group), 2)).ravel()
        np.testing.assert_array_equal(video[0], whole[int(index)][expected])


def test_they_are_a_function_of_seed_and_step(folder):
    complete = training(config(folder), 6)
    assert_same_batches(training(config(folder), 2, start_step=4), complete[4:])
    assert_same_batches(training(config(folder, data__workers=2, data__threads=1), 3), complete[:3])
    parts = [training(config(folder), 2, process_index=p, process_count=2) for p in (0, 1)]
    assert_same_batches([{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts)], complete[:2])
    assert any((a["video"] != b["video"]).any() for a, b in zip(training(config(folder, seed=1), 3), complete))
