"""Features of a frozen teacher as targets: losses, gradients, the state, refusals, and workdirs that come of it."""

import json
import pathlib

import jax
import numpy as np
import pytest

from cvmae import load
from cvmae.config import ConfigError
from cvmae.interop import read
from cvmae.objective.latents import normalize_latents
from cvmae.tasks import run as train
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.validate import validate
from tests.commands import assert_same_state, host_devices, metric_lines, run, saved_state
from tests.interop.encoder_folders import make_dinov2, make_vjepa2
from tests.properties.test_resume_tasks import Interrupted, interrupt
from tests.tiny_configs import config, make_task, samples

GRID = {"data__num_frames": 4, "augment__size": (16, 16), "video_branch__variant": "test/8"}


FAST = {"total": "4_steps", "eval_every": "2_steps", "checkpoint_every": "2_steps", "report__pictures": 0, "report__labelled": 0}


def latent(folder, only=(), **fields):
    """Returns the config of pre-training by the features of the weights in `folder`, filled."""
    fields = {"video_branch__target": "latent", "video_branch__teacher__init_from": str(folder)} | fields
    return fill_fields(config((*only, "latent_video"), **fields))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vjepa2")
    make_vjepa2(folder)
    return folder


def batch(task, seed=0):
    return {name: samples(task.config, task.config.batch_size, seed)[name] for name in task.BATCH_KEYS}


def computed(objective, params, samples):
    """Returns the inputs, the model's output and the metrics of a batch, all of one program."""

    def compute(params, samples):
        inputs = objective.step_inputs(samples, params)
        return inputs, objective.forward(params, inputs), objective(params, samples)[1]

    return jax.jit(compute)(params, samples)


def plain_loss(path, inputs, predictions, c, norm):
    """The loss in numpy: the encoder of `path` by the public way on all tokens, and the mean over the masked ones."""
    module, params, preprocessing = load(path, "encoder")
    pixels = (np.asarray(inputs.video) - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    features = np.asarray(jax.jit(module.apply)({"params": params}, pixels.astype(np.float32)).tokens, np.float64)
    if norm == "layer":
        features -= features.mean(-1, keepdims=True)
        features /= np.sqrt((features**2).mean(-1, keepdims=True) + 1e-5)
    masked = np.asarray(inputs.video_mask.ids_shuffle)[:, inputs.video_mask.num_visible :]
    targets = np.take_along_axis(features, masked[..., None], axis=1)
    return ((targets - np.asarray(predictions, np.float64)) ** 2).mean()


@pytest.mark.parametrize(
    ("norm", "ratio", "terms"),
    [("layer", 0.9, ("mse_video",)), ("none", 0.5, ())],
)
def test_loss_is_that_of_a_plain_computation(folder, norm, ratio, terms):
    c = latent(folder, terms, **GRID, video_branch__teacher__norm=norm, video_branch__mask__ratio=ratio)
    task = make_task(c)
    state = task.initial_state()
    inputs, output, metrics = computed(task.objective, state.params | state.frozen, samples(c))
    assert output.video_latents.shape[-1] == 32
    expected = plain_loss(folder, inputs, output.video_latents, c, norm)
    np.testing.assert_allclose(metrics["loss/latent_video"], expected, rtol=1e-4)
    assert ("loss/mse_video" in metrics) == bool(terms)
    assert ("predict" in state.params["video"]["decoder"]) == bool(terms)


def test_the_teacher_gets_no_gradient_moments_average_or_update(folder):
    task = make_task(latent(folder, **GRID, optimizer__ema_decay=0.5, optimizer__warmup="0_steps"))
    state, weights = task.initial_state(), read(folder).params["encoder"]
    drawn, both = samples(task.config), state.params | state.frozen
    gradients = jax.jit(jax.grad(lambda params: task.objective(params, drawn)[0]))(both)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients.pop("teacher")))
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(gradients))
    assert set(state.params) == set(state.ema) == {"video"} and "teacher" not in str(jax.tree.structure(state.opt_state))
    state, _ = task.step(state, batch(task))
    teacher = state.frozen["teacher"]
    jax.tree.map(np.testing.assert_array_equal, teacher["blocks"], weights["blocks"])
    assert "teacher" not in str(jax.tree.structure(jax.eval_shape(task.objective.init, jax.random.key(0), drawn)))


# Tests with these fields share the compiled step.
LEARNING = GRID | {"optimizer__base_lr": 0.1, "optimizer__clip_norm": 1.0, "optimizer__warmup": "0_steps"}


def test_the_loss_falls(folder):
    task = make_task(latent(folder, **LEARNING), 40)
    state, losses = task.initial_state(), []
    for _ in range(40):
        state, metrics = task.step(state, batch(task))
        losses.append(float(metrics["loss/latent_video"]))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


OPTIONS = [
    {"accumulate": 2},
    *(pytest.param(o, marks=pytest.mark.slow) for o in ({"remat": "full"}, {"scan": True}, {"dtype": "bfloat16"})),
]


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_options_of_the_step_change_no_loss(folder, fields):
    one, other = (make_task(latent(folder, **LEARNING, **changes), 40) for changes in ({}, fields))
    drawn = batch(one)
    before, after = (float(task.step(task.initial_state(), drawn)[1]["loss/latent_video"]) for task in (one, other))
    assert after == pytest.approx(before, rel=0.02 if "dtype" in fields else 1e-5)


def test_half_of_the_masked_tokens_and_both_views(folder):
    c = latent(folder, ("intra_video",), **GRID, video_branch__decoder__share=0.5, video_branch__decoder__layout="concat")
    task = make_task(c)
    state = task.initial_state()
    inputs, output, metrics = computed(task.objective, state.params | state.frozen, samples(c))
    predictions = np.asarray(output.video_latents)
    assert predictions.shape[:2] == (8, inputs.video_mask.masked.shape[1])
    targets = np.take_along_axis(np.asarray(inputs.video_latents), np.asarray(inputs.video_mask.masked)[..., None], axis=1)
    np.testing.assert_allclose(metrics["loss/latent_video"], ((targets - predictions) ** 2).mean(), rtol=1e-5)


def test_the_layer_norm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    features = np.random.default_rng(0).normal(3, 2, (2, 5, 16)).astype(np.float32)
    expected = torch.nn.functional.layer_norm(torch.tensor(features), (16,)).numpy()
    np.testing.assert_allclose(normalize_latents(features, "layer"), expected, atol=1e-5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The workdir of a masked autoencoder."""
    workdir = tmp_path_factory.mktemp("teacher")
    train(config(("mse_video",), **FAST | {"eval_every": "0_steps"}), str(workdir))
    return workdir


def test_a_run_resumes_in_the_same_bits_and_keeps_its_teacher(teacher, tmp_path, monkeypatch):
    c = latent(teacher, ("mse_video",), **FAST)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    numbers = train(c, str(whole))
    assert {"loss/latent_video", "loss/mse_video"} <= numbers.keys()
    assert "eval/loss/latent_video" in metric_lines(whole)[-1]
    with monkeypatch.context() as patched:
        interrupt(patched, 3)
        with pytest.raises(Interrupted):
            train(c, str(pieces))
    train(c, str(pieces))
    assert_same_state(saved_state(whole, 4), saved_state(pieces, 4))
    assert metric_lines(whole) == metric_lines(pieces)
    other = latent(teacher / "checkpoints" / "2", ("mse_video",), **FAST)
    with pytest.raises(ConfigError, match="made with video_branch.teacher.init_from="):
        train(other, str(whole))
    with pytest.raises(ConfigError, match="made with video_branch.teacher.norm=layer"):
        train(latent(teacher, ("mse_video",), **FAST, video_branch__teacher__norm="none"), str(whole))
    # What comes out of the workdir: the student, its decoder to pixels, nothing of the teacher.
    student = read(whole)
    state = saved_state(whole, 4)
    key = "['video']['encoder']['embed']['kernel']"
    np.testing.assert_array_equal(student.params["encoder"]["embed"]["kernel"], state[f"['params']{key}"])
    assert student.parts == ("encoder", "autoencoder") and "decoder/predict_latents" in student.ignored
    again = make_task(latent(teacher, ("mse_video",), **FAST, video_branch__init_from=str(whole))).initial_state()
    predict = "['video']['decoder']['predict']['kernel']"
    np.testing.assert_array_equal(again.params["video"]["decoder"]["predict"]["kernel"], state[f"['params']{predict}"])


@pytest.mark.slow
def test_a_run_without_pixels_is_read_as_an_encoder(teacher, tmp_path):
    train(latent(teacher, **FAST), str(tmp_path))
    assert read(tmp_path).parts == ("encoder",) and "decoder" in read(tmp_path).ignored


@pytest.mark.slow
def test_a_cooldown_goes_on_with_the_heads_of_its_run(teacher, tmp_path):
    c = latent(teacher, ("mse_video",), **FAST, optimizer__schedule="constant")
    train(c, str(tmp_path / "run"))
    more = latent(teacher, ("mse_video",), **FAST, cooldown__init_from=str(tmp_path / "run"))
    state = make_task(more).initial_state()
    heads, saved = state.params["video"]["decoder"], saved_state(tmp_path / "run", 4)
    for name in ("predict", "predict_latents"):
        expected = saved[f"['params']['video']['decoder']['{name}']['kernel']"]
        np.testing.assert_array_equal(heads[name]["kernel"], expected)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.frozen))


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(folder, tmp_path):
    file = tmp_path / "losses.json"
    program = str(pathlib.Path(__file__).parent.parent / "properties" / "latent_steps.py")
    done = run(str(folder), str(file), program=(program,), env=host_devices(8))
    assert done.returncode == 0, done.stderr
    one, *others = json.loads(file.read_text())
    for losses in others:
        np.testing.assert_allclose(losses, one, rtol=2e-4)


REFUSED = [
    (
        {"video_branch__target": "features"},
        "config.video_branch.target='features' cannot be used: it must be one of pixels, latent",
    ),
    ({"video_branch__teacher__norm": "batch"}, "config.video_branch.teacher.norm='batch' cannot be used"),
    ({"video_branch__target": "pixels"}, "teacher.init_from=.* is not read with config.video_branch.target='pixels'"),
    ({"video_branch__teacher__init_from": ""}, "target='latent' has no teacher: give config.video_branch.teacher.init_from"),
    ({"loss__latent_video": 0.0}, "with config.loss.latent_video=0 predicts no features"),
    ({"video_branch__variant": "test/16", "augment__size": (32, 32)}, "into 2x4x4 tokens .* the branch into 2x2x2: take"),
    ({"video_branch__tubelet": 1}, "into 2x2x2 tokens .* the branch into 4x2x2: take"),
    ({"video_branch__teacher__cls_token": True}, "teacher.cls_token=True, but the encoder in .* has False: leave the field out"),
    ({"video_branch__teacher__init_from": "no/such/folder/x"}, "config.video_branch.teacher.init_from"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(folder, fields, message):
    with pytest.raises(ConfigError, match=message) as refused:
        validate(latent(folder, ("mse_video",), **(GRID | fields)))
    assert "\n" not in str(refused.value)


def test_an_encoder_of_images_is_refused(tmp_path):
    make_dinov2(tmp_path, 16)
    with pytest.raises(ConfigError, match="into 4x2x2 tokens .* the branch into 2x2x2"):
        validate(latent(tmp_path, **GRID))


def test_other_configs_have_no_teacher():
    c = config(("mse_video",))
    validate(c)
    assert c.loss.latent_video == 1.0 and make_task(c).objective.teacher is None
