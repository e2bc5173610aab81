"""Tasks on folders of pictures as ImageNet has them: prepared, trained, tested, and what pre-training on them says and refuses."""

import json

import numpy as np
import pytest
from PIL import Image

import cvmae
from cvmae.config import ConfigError, load
from cvmae.data.prepare import Options, prepare
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.training import loop
from tests.commands import metric_lines, saved_state
from tests.data.videos import write_video
from tests.tiny_configs import CONFIGS

COLORS = {"n01440764": (200, 40, 40), "n01443537": (40, 40, 200)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two classes that differ in color, in the published folders."""
    folder, draw = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, color in COLORS.items():
            (folder / "ILSVRC" / split / label).mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(-20, 20, (48, 56, 3))
                image = Image.fromarray((np.array(color) + noise).astype(np.uint8))
                image.save(folder / "ILSVRC" / split / label / f"{label}_{number}.JPEG")
    return prepare(Options("imagenet", str(folder / "ILSVRC"), str(folder / "out"), workers=1))["manifest"]


def config(argument, manifest, **fields):
    changes = {name.replace("__", "."): value for name, value in fields.items()}
    changes |= {"data.source": "files", "data.manifest": manifest}
    return load(f"{CONFIGS / 'imagenet.py'}:{argument},runlocal", changes)


@pytest.mark.parametrize("task", ["linear", pytest.param("attentive", marks=pytest.mark.slow)])
def test_a_probe_tells_two_colors(task, manifest, tmp_path):
    splits = {"data__split": "train", "data__eval_split": "val"}  # 1 % of 16 pictures is none
    few = {"total": "12_steps", "eval_every": "12_steps", "probe__rates": (1e-2,), "probe__weight_decays": (1e-4,)}
    numbers = cvmae.run(config(f"task={task}", manifest, **few, **splits), tmp_path)
    assert numbers["test/accuracy/top1"] == 1.0
    assert [line.split(",")[1] for line in (tmp_path / "per_class.csv").read_text().splitlines()[1:]] == list(COLORS)


@pytest.mark.slow
def test_fine_tuning_on_shards_tells_two_colors(manifest, tmp_path):
    write_shards(manifest, str(tmp_path / "shards"))
    c = config("task=finetune", manifest, total="24_steps", eval_every="24_steps", optimizer__base_lr=1e-2).unlock()
    c.data.source, c.data.manifest, c.data.webdataset.shards = "webdataset", "", f"{tmp_path}/shards/{{split}}-*.tar"
    c.data.split, c.data.eval_split = "train", "val"
    assert cvmae.run(c.lock(), tmp_path / "run")["test/accuracy/top1"] == 1.0


def test_features_of_a_picture_are_one_window(manifest, tmp_path):
    cvmae.run(config("task=extract", manifest, data__split="val"), tmp_path)
    features = cvmae.FeatureFolder(str(tmp_path / "features"))
    assert len(features) == 8
    for arrays in features.values():
        assert arrays["features"].shape[0] == 1 and np.isfinite(arrays["features"]).all()


FEW = {"batch_size": 4, "report__pictures": 0, "eval_every": "0_steps"}


def image_mae(manifest, **fields):
    """Stage 0 on single frames, as the config has it without runlocal."""
    return config("", manifest, data__num_frames=1, video_branch__tubelet=1, **FEW, **fields)


def test_the_image_mae_is_pretrained_on_single_frames(manifest, tmp_path, capfd):
    cvmae.run(image_mae(manifest, total="2_steps"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [sorted(key for key in line if key.startswith("loss/")) for line in lines if "loss" in line] == [
        ["loss/mse_image"]
    ] * 2
    assert "pictures only" not in capfd.readouterr().err  # which are meant


@pytest.mark.slow
def test_the_image_branch_of_a_run_on_videos_starts_from_it(manifest, tmp_path, capfd):
    cvmae.run(image_mae(manifest, total="1_steps"), tmp_path / "stage0")
    videos = load(f"{CONFIGS / 'ssv2.py'}:runlocal", {"image_branch.init_from": str(tmp_path / "stage0"), "total": "1_steps"})
    videos.eval_every, videos.report.pictures = "0_steps", 0
    for term in videos.loss:
        videos.loss[term] = float(term in ("mse_video", "cross_video"))
    cvmae.run(videos, tmp_path / "run")
    assert "image_branch encoder starts untrained" not in capfd.readouterr().err


def test_a_mixture_of_pictures_and_videos_trains_both_branches(manifest, tmp_path):
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 8, first=10 * number)
    fields = {"data.mixture": "stills:1,moving:1", "total": "2_steps", "log_every": "1_steps", "optimizer.warmup": "0_steps"}
    fields |= {name.replace("__", "."): value for name, value in FEW.items()}
    c = load(f"{CONFIGS / 'ssv2.py'}:sources=stills+moving,runlocal", fields | {"optimizer.base_lr": 0.1})
    for name, where in (("stills", manifest), ("moving", str(tmp_path))):
        c.data.sources[name].source, c.data.sources[name].manifest = "files", where
    for term in c.loss:
        c.loss[term] = float(term in ("mse_video", "mse_image"))
    cvmae.run(c, tmp_path / "run")
    lines = [line for line in metric_lines(tmp_path / "run") if "loss" in line]
    for line in lines:
        parts = line["loss/stills"], line["loss/moving"]
        assert line["loss"] == pytest.approx(sum(parts) / 2, rel=1e-5) and parts[0] != parts[1]
        assert line["loss"] == pytest.approx(line["loss/mse_video"] + line["loss/mse_image"], rel=1e-5)
    assert [(line["clips/stills"], line["clips/moving"]) for line in lines] == [(2, 2), (4, 4)]
    moments = {name: array for name, array in saved_state(tmp_path / "run", 2).items() if "['mu']" in name}
    for branch in ("video", "image"):
        assert any(np.abs(array).max() > 0 for name, array in moments.items() if f"['{branch}']['encoder']" in name), list(
            moments
        )


class Begun(Exception):
    pass


def test_a_video_objective_on_pictures_alone_is_noted_and_reversed_negatives_are_refused(manifest, tmp_path, capfd, monkeypatch):
    def begin(*_):
        raise Begun

    few = FEW | {"total": "1_steps"}
    monkeypatch.setattr(loop, "run", begin)  # which compiles what is trained here in no other way
    with pytest.raises(Begun):
        cvmae.run(config("parent=videomae", manifest, **few), tmp_path / "run")
    assert "note: config.data.split='train' has pictures only, so every clip is one repeated frame" in capfd.readouterr().err
    c = config("parent=videomae", manifest, contrast__time_reversed_negatives=True, loss__intra_video=1.0, **few)
    with pytest.raises(
        ConfigError, match="time_reversed_negatives=True needs videos: a clip of a picture.*data.split='train' has"
    ):
        cvmae.run(c, tmp_path / "other")
    assert not (tmp_path / "other").exists()
