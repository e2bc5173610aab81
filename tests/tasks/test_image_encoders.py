"""DINOv2 and SigLIP: teachers of the image branch, frozen or trained, and encoders of single frames in downstream tasks."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError, load
from cvmae.interop import read
from cvmae.tasks.model_fields import fill_fields
from cvmae.training.optimizer import path_of
from tests.interop.encoder_folders import FOLDERS
from tests.tiny_configs import CONFIGS, config, make_task, samples

FIELDS = {
    "hf-dinov2": {"layer_scale": True, "registers": 2},
    "hf-siglip": {"cls_token": False, "mlp": "gelu_tanh"},
}
IMAGE = ("hf-dinov2", "hf-siglip")


@pytest.fixture(scope="module", params=IMAGE)
def teacher(request, tmp_path_factory):
    """A kind, and a folder with weights of it."""
    folder = tmp_path_factory.mktemp(request.param)
    FOLDERS[request.param](folder)
    return request.param, folder


def task(teacher, only=("cross_video",), **overrides):
    kind, folder = teacher
    fields = {"variant": "test/8", "positions": "learned"} | FIELDS[kind]
    fields = {f"image_branch__{name}": value for name, value in fields.items()}
    return make_task(config(only, image_branch__init_from=str(folder), **(fields | overrides)))


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# Of SigLIP the tests below load what these train; DINOv2 has more parts.
ONE = pytest.mark.parametrize("teacher", ["hf-dinov2", pytest.param("hf-siglip", marks=pytest.mark.slow)], indirect=True)


@ONE
@pytest.mark.parametrize("train", ["frozen", pytest.param("full", marks=pytest.mark.slow)])
def test_a_teacher_of_visible_tokens(teacher, train):
    """It starts from the file, with positions interpolated to the frames of the run, and moves only if it is trained."""
    started = task(teacher, image_branch__train=train, optimizer__warmup="0_steps")
    before, drawn = started.initial_state(), samples(started.config, 8)
    expected = flat(read(teacher[1]).params["encoder"]["blocks"])
    found = flat(before.params["image"]["encoder"]["blocks"])
    assert all((found[name] == array).all() for name, array in expected.items())
    first = flat(before.params)
    state, metrics = started.step(before, {name: drawn[name] for name in ("video", "frame_index")})
    assert np.isfinite(metrics["loss"])
    moved = {name for name, array in flat(state.params).items() if (array != first[name]).any()}
    assert any(name.startswith("/video/encoder/") for name in moved)
    assert any(name.startswith("/image/encoder/") for name in moved) == (train == "full")


def test_its_branch_does_not_reconstruct(teacher):
    with pytest.raises(ConfigError, match="an encoder of features, with no decoder to pixels: .*--config.loss.mse_image=0"):
        task(teacher, ("cross_video", "mse_image"), image_branch__decoder__cls="own").initial_state()


def test_other_fields_are_refused_with_the_flags(teacher):
    with pytest.raises(ConfigError) as caught:
        task(teacher, image_branch__positions="sincos2d", image_branch__layer_scale=False).initial_state()
    assert "--config.image_branch.positions=learned" in str(caught.value)
    assert ("--config.image_branch.layer_scale=True" in str(caught.value)) == (teacher[0] == "hf-dinov2")


def probe(teacher, **fields):
    changes = {name.replace("__", "."): value for name, value in fields.items()} | {"init_from": str(teacher[1])}
    filled, _ = fill_fields(load(f"{CONFIGS / 'motion.py'}:task=linear,variant=test/8", {"data.source": "synthetic"} | changes))
    return make_task(filled).initial_state()


def test_single_frames_are_probed(teacher):
    state = probe(teacher, data__num_frames=1)
    expected = read(teacher[1]).params["encoder"]
    np.testing.assert_array_equal(state.frozen["norm"]["scale"], expected["norm"]["scale"])
    assert ("registers" in state.frozen) == (teacher[0] == "hf-dinov2")


@ONE
def test_clips_want_an_inflated_encoder(teacher):
    with pytest.raises(ConfigError, match="give config.video_branch.inflate .*or config.data.num_frames=1 for single frames"):
        probe(teacher)
    state = probe(teacher, video_branch__inflate="mean")
    assert state.frozen["positions"]["space"].shape[0] == (32 // 8) ** 2
