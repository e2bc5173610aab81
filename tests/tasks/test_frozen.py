"""Nearest neighbors and retrieval by the command's own way: features from the workdir, interrupted or not."""

import json
import os

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadDataError
from cvmae.data.sources import Record
from cvmae.evaluation import feature_cache
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.features import Features
from cvmae.tasks import frozen, run
from cvmae.tasks.frozen import first_two_clips
from tests.data.videos import write_video
from tests.tiny_configs import downstream


@pytest.mark.parametrize("task", ["knn", "retrieval"])
def test_an_interrupted_run_ends_with_the_same_numbers(task, tmp_path, monkeypatch):
    config = downstream(task)
    whole = run(config, str(tmp_path / "whole"))
    monkeypatch.setattr(feature_cache, "SHARD_ROWS", 16)
    save, saved = feature_cache._save, []

    def save_two(folder, number, columns):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(number)
        save(folder, number, columns)

    with monkeypatch.context() as patched:
        patched.setattr(feature_cache, "_save", save_two)
        with pytest.raises(KeyboardInterrupt):
            run(config, str(tmp_path / "pieces"))
    assert not (tmp_path / "pieces" / "report.json").exists()
    assert run(config, str(tmp_path / "pieces")) == whole
    report = json.loads((tmp_path / "pieces" / "report.json").read_text())
    assert {f"{task}/{name}": value for name, value in report["metrics"].items()} == whole


def test_features_of_another_encoder_are_not_taken(tmp_path):
    run(downstream("knn"), str(tmp_path))
    with pytest.raises(ConfigError, match="something else: the weights, of config.seed 0 and not 1. Give another"):
        run(downstream("knn", seed=1), str(tmp_path))
    [path, _] = tmp_path.rglob("identity.json")
    of_earlier_version = {name: value for name, value in json.loads(path.read_text()).items() if name != "config"}
    path.write_text(json.dumps(of_earlier_version))
    with pytest.raises(ConfigError, match="the weights, which are others now in config.init_from 'untrained'. Give another"):
        run(downstream("knn", seed=1), str(tmp_path))


def test_fields_of_the_vote_and_of_the_features_change_the_numbers(tmp_path):
    def numbers(name, **overrides):
        return run(downstream("knn", **overrides), str(tmp_path / name))

    usual = numbers("usual")
    assert set(usual) == {f"knn/top{top}/k={k}" for top in (1, 5) for k in (10, 20, 100, 200)}
    assert set(numbers("usual", knn__neighbours=(3,))) == {"knn/top1/k=3", "knn/top5/k=3"}
    for change in (
        {"knn__temperature": 1000.0, "knn__neighbours": (64,)},
        {"features__layer": 0},
        {"features__clips": 3, "features__crops": 3},
    ):
        assert list(numbers(str(change), **change).values()) != list(usual.values()), change


def test_the_same_video_needs_two_clips_and_no_label(tmp_path):
    config = downstream("retrieval", features__clips=1)
    assert {name.split("/")[1] for name in run(config, str(tmp_path / "one"))} == {"same_class"}
    two = run(downstream("retrieval"), str(tmp_path / "two"))
    assert {name.split("/")[1] for name in two} == {"same_class", "same_video"}


def test_rows_of_the_two_clips_belong_together():
    features = Features(
        np.arange(7.0)[:, None], np.zeros(7, int), np.array([0, 0, 1, 2, 2, 3, 3]), np.array([0, 1, 1, 0, 1, 0, 2])
    )
    first, second = first_two_clips(features)
    np.testing.assert_array_equal(first[:, 0], [0, 3])
    np.testing.assert_array_equal(second[:, 0], [1, 4])


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"features__layer": 2}, "layer=2 is not there: test/16 has 2 blocks, 0 to 1"),
        ({"knn__neighbours": ()}, "knn.neighbours=.* cannot be used"),
        ({"data__split": "train[:2000]"}, r"config.data.split='train\[:2000\]': .*fewer than the 2000"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_it_writes(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(downstream("knn", **overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def extracted(folder, **overrides) -> dict:
    """The arrays of the first video after `task=extract`: 8 frames of 4 a window, 2 slots of 4 positions, width 32."""
    run(downstream("extract", data__synthetic__clips=3, **overrides), str(folder))
    return FeatureFolder(folder / "features")["synthetic/train/0"]


def test_fields_of_extraction_change_what_is_written(tmp_path):
    usual = extracted(tmp_path / "usual")
    assert usual["features"].shape == (2, 32) and usual["features"].dtype == np.float32
    for number, (change, shape) in enumerate(
        [
            ({"extract__tokens": "slots"}, (2, 2, 32)),
            ({"extract__tokens": "all"}, (2, 8, 32)),
            ({"extract__window_stride": 1}, (5, 32)),
            ({"extract__layer": 0}, (2, 32)),
            ({"extract__dtype": "float16"}, (2, 32)),
            ({"extract__format": "array_record"}, (2, 32)),
        ]
    ):
        found = extracted(tmp_path / str(number), **change)["features"]
        assert found.shape == shape, change
        assert np.array_equal(found, usual["features"]) == ("extract__format" in change), change
    assert (tmp_path / "5" / "features" / "features-00000.array_record").exists()


def test_the_end_of_an_extraction_says_where_unreadable_files_are_listed(tmp_path, capsys):
    write_video(tmp_path / "a.mp4", 20)
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("path,label,split\na.mp4,x,train\nb.mp4,x,train\n")
    data = {"data__source": "files", "data__manifest": str(tmp_path / "list.csv"), "data__max_bad_fraction": 0.9}
    assert run(downstream("extract", **data), str(tmp_path / "w"))["extract/unreadable"] == 1
    folder = tmp_path / "w" / "features"
    assert f"1 of 2 videos have no features, {folder}/bad_files.csv says which and why" in capsys.readouterr().err
    assert "b.mp4" in (folder / "bad_files.csv").read_text()
    write_video(tmp_path / "b.mp4", 20)  # it is repaired: the list of before ends no run
    strict = downstream("extract", **data | {"data__max_bad_fraction": 0.0})
    assert run(strict, str(tmp_path / "w"))["extract/unreadable"] == 0 and len(FeatureFolder(folder)) == 2


def test_extraction_goes_on_where_it_was(tmp_path):
    extracted(tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features" / "synthetic" / "train").iterdir()}
    gone = tmp_path / "features" / "synthetic" / "train" / "1.npz"
    content = np.load(gone)["features"]
    gone.unlink()
    numbers = run(downstream("extract", data__synthetic__clips=3), str(tmp_path))
    assert numbers["extract/written"] == 1 and numbers["extract/skipped"] == 2
    np.testing.assert_array_equal(np.load(gone)["features"], content)
    assert all((gone.parent / name).stat().st_mtime_ns == time for name, time in files.items() if name != gone.name)


@pytest.mark.parametrize("task", ["knn", "retrieval", "extract"])
def test_the_workdir_of_a_run_that_trained_is_not_written_over(task, tmp_path):
    (tmp_path / "config.json").write_text('{"task": "pretrain"}')
    with pytest.raises(ConfigError, match=f"holds a run of task=pretrain, whose files task={task} would replace: give another"):
        run(downstream(task), str(tmp_path))
    assert os.listdir(tmp_path) == ["config.json"]


def test_figures_of_other_weights_are_not_written_over(tmp_path):
    figures = tmp_path / "figures" / "figures.json"
    figures.parent.mkdir()
    figures.write_text("[]")
    (tmp_path / "config.json").write_text('{"task": "visualize", "init_from": "weights/a"}')
    with pytest.raises(
        ConfigError, match="holds the figures of config.init_from=weights/a, which those of untrained would replace"
    ):
        run(downstream("visualize"), str(tmp_path))
    assert figures.read_text() == "[]" and sorted(os.listdir(tmp_path)) == ["config.json", "figures"]


def test_videos_that_cannot_be_read_are_listed_beside_the_features_of_their_split(tmp_path, monkeypatch):
    usual = frozen.open_split

    def broken(data, field, custom=None):
        source = usual(data, field, custom)
        read = type(source).__getitem__
        if data[field] == "val":
            gone = Record("gone.mp4", 0, None, None, "gone.mp4")
            monkeypatch.setattr(
                type(source), "__getitem__", lambda self, i: gone if (i, self.split) == (3, "val") else read(self, i)
            )
        return source

    monkeypatch.setattr(frozen, "open_split", broken)
    run(downstream("knn", data__max_bad_fraction=0.5), str(tmp_path))
    assert "gone.mp4" in (tmp_path / "features" / "test_split" / "bad_files.csv").read_text()
    assert not (tmp_path / "features" / "split" / "bad_files.csv").exists()
    with pytest.raises(BadDataError, match="1 of 64 videos cannot be read"):
        run(downstream("knn", data__max_bad_fraction=0.001, seed=1), str(tmp_path / "strict"))
    monkeypatch.undo()  # the video is repaired
    run(downstream("knn", data__max_bad_fraction=0.001, seed=1), str(tmp_path / "strict"))
