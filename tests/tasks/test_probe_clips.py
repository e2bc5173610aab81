"""Attentive probes that read several clips of a video together: against transformers' pooler, and what fits and is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cvmae
from cvmae.config import ConfigError, load
from cvmae.data.clips import ClipView
from cvmae.data.pipeline import clip_spec, cut_clip
from cvmae.evaluation.features import block_tokens
from cvmae.evaluation.multi_view import flat_crops
from cvmae.interop import read
from cvmae.tasks.validate import validate
from cvmae.training import loop
from cvmae.workdir import Workdir
from tests.requirements import missing
from tests.tiny_configs import CONFIGS, downstream, labeled_batch, make_task

ONE_HEAD = {"probe__rates": (1e-2,), "probe__weight_decays": (0.1,), "probe__blocks": 1}


def tokens_of_each_clip(task, encoder, video):
    """Of normalized videos [B, N·T, H, W, 3], each clip by itself and alone in its batch: float32 [B, N·L, D]."""
    layers, frames = task.config.probe.layers, task.config.data.num_frames
    encode = jax.jit(lambda clip: block_tokens(task.encoder, encoder, clip, layers))
    clips = [[encode(row[None, start : start + frames])[0] for start in range(0, len(row), frames)] for row in np.asarray(video)]
    return np.stack([np.concatenate(row) for row in clips]).astype(np.float32)


@pytest.fixture(scope="module")
def pooler(tmp_path_factory):
    """transformers' attentive pooler and classifier of random weights, and its parameters under this package's names."""
    try:
        from tests.interop.hf_models import shake, torch, transformers
    except ImportError as error:
        missing("parity", str(error))
    sizes = {"crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "hidden_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_pooler_layers": 1, "num_labels": 4, "layer_norm_eps": 1e-6}
    sizes |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    torch.manual_seed(0)
    model = shake(transformers.VJEPA2ForVideoClassification(transformers.VJEPA2Config(**sizes)), seed=1)
    folder = tmp_path_factory.mktemp("vjepa2")
    model.save_pretrained(folder)
    _, params = read(folder).take("classifier")
    # Which has no linear layer behind the query's attention.
    out = {"kernel": np.eye(32, dtype=np.float32), "bias": np.zeros(32, np.float32)}
    params = params["pooler"] | {"out": out, "head": params["head"]}

    def logits(tokens):
        with torch.no_grad():
            return model.classifier(model.pooler(torch.from_numpy(tokens))).numpy()

    return logits, params


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("layers", [(-1,), (-2, -1)])
def test_logits_are_those_of_transformers_pooler_on_the_tokens_of_all_clips(layers, pooler):
    logits_of, params = pooler
    task = make_task(downstream("attentive", **ONE_HEAD, probe__clips=3, test__clips=3, probe__layers=layers))
    state = task.initial_state()
    state = state.replace(params=jax.tree.map(lambda _, array: jnp.asarray(array)[None], state.params, params))
    frozen = jax.device_get(state.frozen)

    batch = labeled_batch(task.config, 8)
    crops = labeled_batch(task.config, 4, seed=1)["video"].reshape(2, 2, 12, 40, 40, 3)  # two crops of two videos
    found = task.predict(state)({"video": jnp.asarray(crops)})[:, 0]
    centered = np.asarray(jax.jit(lambda video: flat_crops(video, task.config))(crops))
    assert centered.shape == (4, 12, 32, 32, 3)
    expected = softmax(logits_of(tokens_of_each_clip(task, frozen, centered))).reshape(2, 2, 4).mean(1)
    np.testing.assert_allclose(found, expected, atol=2e-5)

    views, labels, _ = jax.jit(lambda batch: task.views(task.samples(batch, 0)))(task.placement.put(batch))
    assert views.shape == (8, 12, 32, 32, 3)
    logits = logits_of(tokens_of_each_clip(task, frozen, views))
    _, metrics = task.step(state, batch)
    expected = -np.log(softmax(logits)[np.arange(8), np.asarray(labels)]).mean()
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_video_is_tested_by_groups_of_its_clips(tmp_path):
    """Of four clips, two groups of two, whose probabilities are averaged; the report says it."""
    c = downstream(
        "attentive",
        **ONE_HEAD,
        probe__clips=2,
        test__clips=4,
        test__crops=1,
        data__synthetic__clips=8,
        data__clip_sampling="middle",
    )
    task = make_task(c)
    state = task.initial_state()
    results = task.results(state, Workdir.create(tmp_path))
    assert "8 videos of val, 4 x 1 views each, 2 clips read together: top1" in results.text
    details = results.report.details
    assert (details["views"], details["clips_together"], details["clips"]) == ("4 x 1", 2, 8)
    rows = []
    for group in range(2):
        spec = clip_spec(c).deterministic()
        samples = [cut_clip(task.test_source[i], spec, None, ClipView(group, 2)) for i in range(8)]
        rows.append(task.predict(state)({"video": jnp.asarray(np.stack(samples))})[:, 0])
    np.testing.assert_allclose(results.predictions.probabilities, np.mean(rows, axis=0), rtol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 1e-5


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"probe__clips": 3, "test__clips": 2},
            "config.test.clips=2 is no multiple of config.probe.clips=3, .*set --config.test.clips=3",
        ),
        ({"probe__clips": 0}, "config.probe.clips=0 cannot be used: it must be at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(downstream("attentive", **fields))
    validate(downstream("attentive", probe__clips=2, test__clips=6))


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_only_attentive_probes_have_the_field(task):
    with pytest.raises(ConfigError, match="config.probe.clips does not exist: config"):
        downstream(task, probe__clips=2)


def test_published_numbers_of_clips():
    """V-JEPA 2's num_segments, configs/eval/vitl of facebookresearch/vjepa2; elsewhere one clip."""
    names = {"ssv2": 2, "k400": 8, "diving48": 4, "jester": 4, "ucf101": 1, "imagenet": 1}
    configs = {name: load(f"{CONFIGS / name}.py:task=attentive") for name in names}
    assert {name: c.probe.clips for name, c in configs.items()} == names
    assert all(c.test.clips % c.probe.clips == 0 and c.test.crops == 3 for name, c in configs.items() if name != "imagenet")


class Begun(Exception):
    pass


def begin(*_):
    raise Begun


def test_clips_of_pictures_are_noted(tmp_path, monkeypatch, capfd):
    for number in range(8):
        Image.new("RGB", (48, 48), (30 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
    rows = [f"{number}.jpg,{'ab'[number % 2]},{'train' if number < 4 else 'val'}" for number in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    monkeypatch.setattr(loop, "run", begin)
    fields = {"data__source": "files", "data__manifest": str(tmp_path / "list.csv")}
    for clips in (2, 1):
        with pytest.raises(Begun):
            cvmae.run(downstream("attentive", **fields, probe__clips=clips), tmp_path / f"run{clips}")
        assert ("has pictures only, so the config.probe.clips=2 clips" in capfd.readouterr().err) == (clips == 2)


def test_a_workdir_of_before_the_field_reads_one_clip(tmp_path, monkeypatch, capfd):
    config = downstream("attentive", probe__clips=2)
    told = json.loads(config.to_json_best_effort())
    taken = []

    def begin(task, *_):
        taken.append(task.config.probe.clips)
        raise Begun

    monkeypatch.setattr(loop, "run", begin)
    for had, clips in (({"clips": 2}, 2), ({}, 1)):
        folder = tmp_path / str(clips)
        folder.mkdir()
        told["probe"] = {name: value for name, value in told["probe"].items() if name != "clips"} | had
        (folder / "config.json").write_text(json.dumps(told))
        with pytest.raises(Begun):
            cvmae.run(config, folder)
        assert taken[-1] == clips
        noted = "note: config.probe.clips=1, as this workdir was begun; a new --workdir takes 2" in capfd.readouterr().err
        assert noted == (clips == 1)
