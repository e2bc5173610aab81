"""The multi-view test: every video exactly once, and the mean of the softmax of its clips and crops."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.data.sources import make_source
from cvmae.evaluation.multi_view import flat_crops, mean_over_crops, predict_views, whole_batch
from tests.tiny_configs import downstream

CLASSES = 4


def colors(batch):
    """A predictor that anyone can repeat: softmax of a few numbers of the pixels, averaged over crops. [b, CLASSES]"""
    return np.stack([mean_softmax(crops) for crops in np.asarray(batch["video"])])


def mean_softmax(crops):
    """Of one clip's crops, uint8 [crops, T, H, W, 3]."""
    values = crops.reshape(len(crops), -1)[:, :: crops[0].size // CLASSES][:, :CLASSES].astype(np.float64) / 64
    powers = np.exp(values - values.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).mean(0)


def predictions(clips: int, crops: int, **overrides):
    c = downstream("finetune", data__synthetic__clips=10, **overrides)
    return predict_views(colors, c, make_source(c.data, "val"), TestViews(clips, crops))


def plain(clips: int, crops: int):
    """The same by a loop over single views, none of them batched."""
    c = downstream("finetune", data__synthetic__clips=10)
    source = make_source(c.data, "val")
    views: dict[int, list[np.ndarray]] = {}
    with make_view_loader(c, source, 1, TestViews(clips, crops)) as loader:
        for batch in loader:
            for crop in range(crops):
                views.setdefault(int(batch["index"][0]), []).append(mean_softmax(batch["video"][0, crop : crop + 1]))
    assert all(len(found) == clips * crops for found in views.values())
    return np.array([np.mean(views[number], axis=0) for number in range(len(source))])


@pytest.mark.parametrize("clips, crops", [(1, 1), (2, 3), (5, 3)])
def test_it_is_the_mean_over_all_views(clips, crops):
    found = predictions(clips, crops)
    np.testing.assert_allclose(found.probabilities, plain(clips, crops), atol=1e-6)
    np.testing.assert_array_equal(found.labels, np.arange(10) % CLASSES)
    assert found.readable.all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_batch_size_changes_nothing(batch_size):
    found, usual = predictions(2, 3, batch_size=batch_size), predictions(2, 3)
    np.testing.assert_allclose(found.probabilities, usual.probabilities, atol=1e-7)
    np.testing.assert_array_equal(found.labels, usual.labels)


def test_a_batch_fills_all_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert [whole_batch(size) for size in (1, 8, 9)] == [8, 8, 16]


def test_a_video_that_cannot_be_read_is_told_apart_and_spoils_no_other(tmp_path):
    c = downstream("finetune", data__synthetic__clips=6)
    source = make_source(c.data, "val")
    bad_files = BadFiles(tmp_path, 6, 1.0)

    class Broken:
        class_names, labels = source.class_names, source.labels

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            record = source[index]
            return record if index != 3 else type(record)("gone.mp4", 0, None, None, "gone.mp4")

    found = predict_views(colors, c, Broken(), TestViews(2, 1), bad_files=bad_files)
    whole = predict_views(colors, c, source, TestViews(2, 1))
    np.testing.assert_array_equal(found.readable, np.arange(6) != 3)
    assert found.labels[3] == -1 and not found.probabilities[3].any()
    np.testing.assert_array_equal(np.delete(found.probabilities, 3, 0), np.delete(whole.probabilities, 3, 0))
    assert [name for name, _ in bad_files.pairs] == ["gone.mp4"]


def test_a_source_without_videos_is_refused():
    c = downstream("finetune")
    source = make_source(c.data, "val")

    class Empty:
        class_names, labels = source.class_names, source.labels[:0]

        def __len__(self):
            return 0

    with pytest.raises(ConfigError, match="there is no video to test"):
        predict_views(colors, c, Empty(), TestViews())


def test_crops_are_averaged_within_their_clip():
    values = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(mean_over_crops(values, 3), [[2, 3], [8, 9]])


def test_pixels_are_those_of_the_center_normalized():
    c = downstream("finetune")
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 32, 32, 3), dtype=np.uint8)  # already of augment.size
    expected = (video.reshape(6, 4, 32, 32, 3) / 255.0 - np.array(c.augment.mean)) / np.array(c.augment.std)
    np.testing.assert_allclose(flat_crops(video, c), expected, atol=1e-5)
