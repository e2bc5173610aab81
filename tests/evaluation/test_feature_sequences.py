"""Features for temporal localization: rows on the grid that heads such as ActionFormer assume, in the files that they read."""

import json
import os

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.pipeline import clip_spec
from cvmae.data.sources import make_source
from cvmae.data.windows import plan_windows
from cvmae.evaluation import extract
from cvmae.evaluation.extract import extract_features
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.feature_sequences import video_id
from cvmae.evaluation.features import FeatureSpec
from cvmae.models.build import build_encoder, video_grid
from tests.data import videos
from tests.tiny_configs import config

FPS = 12
FRAMES = {"deep/one.mp4": 29, "two.mp4": 20, "three.mkv": 3}  # of 4 with a hop of 2: 13 on the grid and one moved back, 9, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    for name, count in FRAMES.items():
        videos.write_video(folder / name, count, fps=FPS)
    lines = [f"{name},{label},val" for label, name in enumerate(FRAMES)]
    (folder / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    (folder / "twice.csv").write_text("\n".join(["path,label,split", *lines, "two.mp4,0,val", "other/two.avi,0,val"]))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    c = config(data__source="files", data__manifest=str(folder / "list.csv"), batch_size=4)
    encoder = build_encoder(c, c.video_branch, video_grid(c))
    params = encoder.init(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]

    def extracted(out, manifest="list.csv", spec=FeatureSpec(), **options):
        c.data.manifest = str(folder / manifest)
        return extract_features(c, params, make_source(c.data, "val"), out, spec, window_stride=2, **options)

    return extracted


def test_files_are_those_that_actionformer_reads(folder, run, tmp_path):
    """With the lines of its data set: feature folder, prefix, id and extension; times of a segment as its grid has them."""
    counts = run(tmp_path / "npy", format="npy", dtype="float16")
    run(tmp_path / "npz")
    fields = json.loads((tmp_path / "npy" / "features.json").read_text())
    assert fields == {"feat_stride": 2, "num_frames": 4, "default_fps": None, "input_dim": 32, "file_ext": ".npy"}
    reference = FeatureFolder(tmp_path / "npz")
    rows = {"one": 13, "two": 9, "three": 1}
    for name in FRAMES:
        key = name.rpartition("/")[2].rpartition(".")[0]
        feats = np.load(os.path.join(tmp_path / "npy", key + fields["file_ext"])).astype(np.float32)
        assert feats.shape == (rows[key], fields["input_dim"])
        arrays = reference[name]
        np.testing.assert_allclose(feats, arrays["features"][: rows[key]], rtol=2e-3, atol=2e-3)
        beside = json.loads((tmp_path / "npy" / f"{key}.json").read_text())
        assert beside["path"] == name and beside["windows"] == rows[key]
        # The middle of row t of the grid, seconds * fps / feat_stride - 0.5 * num_frames / feat_stride = t, is that of its window.
        for row, times in ((0, beside["first_window_s"]), (rows[key] - 1, beside["last_window_s"])):
            assert times == [arrays["start_s"][row], arrays["end_s"][row]]
            if key != "three":
                middle = (times[0] + times[1] + 1 / FPS) / 2
                grid = middle * FPS / fields["feat_stride"] - 0.5 * fields["num_frames"] / fields["feat_stride"]
                assert grid == pytest.approx(row, abs=1e-3)
    assert (counts["videos"], counts["written"], counts["windows"]) == (3, 3, 23)
    assert run(tmp_path / "npy", format="npy", dtype="float16")["skipped"] == 3
    assert not list((tmp_path / "npy").rglob("*.tmp"))
    whole = np.load(tmp_path / "npy" / "one.npy")
    np.save(tmp_path / "npy" / "one.npy", whole[:3, :7])  # arrays of other numbers of rows and channels
    np.save(tmp_path / "npy" / "two.npy", np.zeros((9, 33), np.float16))
    counts = run(tmp_path / "npy", format="npy", dtype="float16")
    assert counts["skipped"] == 1 and np.load(tmp_path / "npy" / "one.npy").tobytes() == whole.tobytes()


@pytest.mark.parametrize("fps, frames, regular", [(0.0, 29, 13), (0.0, 30, 14), (15.0, 30, 6), (15.0, 31, 7), (15.0, 33, 7)])
def test_the_windows_on_the_grid(fps, frames, regular):
    windows = plan_windows(clip_spec(config(data__fps=fps)), np.arange(frames) / 30, 2)
    starts = windows.start_s - windows.start_s[0]
    hop = 2 / (fps or 30)
    assert windows.regular == regular == sum(abs(starts / hop - np.arange(len(starts))) < 0.2)
    assert len(windows) - regular in (0, 1)


def test_what_the_files_cannot_hold(run, tmp_path):
    with pytest.raises(ConfigError, match="two.mp4 and two.mp4~2|two.mp4 and other/two.avi"):
        run(tmp_path / "a", "twice.csv", format="npy")
    with pytest.raises(ConfigError, match="one vector a window, not tokens='slots': take tokens=pooled"):
        run(tmp_path / "b", spec=FeatureSpec(tokens="slots"), format="npy")
    with pytest.raises(ConfigError, match="features.mp4 and features.json"):
        extract.check_names(["features.mp4"])


@pytest.mark.parametrize(
    "name, known", [("a/v_x.mp4", "v_x"), ("x.y.webm", "x.y"), ("a.mp4@0.5-1.5", "a@0.5-1.5"), ("a.mp4~2", "a~2"), ("a", "a")]
)
def test_ids(name, known):
    assert video_id(name) == known
