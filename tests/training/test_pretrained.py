"""`image_branch.init_from`: an image MAE out of transformers' file starts the image branch, and a frozen one stays as it is."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.interop.mae import HF_VIT_MAE
from cvmae.training.optimizer import path_of
from cvmae.training.pretrain import Pretrain
from cvmae.training.sharding import make_mesh
from tests.interop.models import rewrite, save_theirs
from tests.small import config, samples

TERMS = ("mse_video", "mse_image", "cross_video")


def task(path, only=TERMS, **overrides):
    # What files of transformers have without a config.json beside them.
    eps = {"image_branch__eps": 1e-12, "image_branch__decoder__norm_eps": 1e-12}
    c = config(only, image_branch__init_from=str(path), **eps, **overrides)
    return Pretrain(c, make_mesh(c.mesh), 8, 8)


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def drop(arrays, start):
    for key in [key for key in arrays if key.startswith(start)]:
        del arrays[key]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random parameters of the image branch, and a folder with them under the keys of transformers' ViTMAEForPreTraining."""
    fresh = task("")
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(a.dtype), fresh.abstract_state().params["image"])
    folder = tmp_path_factory.mktemp("weights")
    for name in ("model", "encoder", "damaged"):
        save_theirs(folder / f"{name}.safetensors", params, HF_VIT_MAE, fresh.objective.model.image.encoder.grid)
    rewrite(folder / "encoder.safetensors", lambda arrays: drop(arrays, "decoder."))
    rewrite(folder / "damaged.safetensors", lambda arrays: drop(arrays, "vit.layernorm"))
    return folder, flat(params)


def test_the_branch_starts_from_the_file_and_the_average_with_it(weights):
    folder, expected = weights
    state = task(folder, optimizer__ema_decay=0.9).init()
    for params in (state.params, state.ema):
        found = flat(params["image"])
        assert all((found[name] == array).all() for name, array in expected.items())


def test_an_encoder_alone_leaves_the_decoder_fresh(weights):
    folder, expected = weights
    found, fresh = (flat(task(path).init().params["image"]) for path in (folder / "encoder.safetensors", ""))
    for name, array in found.items():
        np.testing.assert_array_equal(array, (expected if name.startswith("/encoder") else fresh)[name])


def test_without_reconstruction_the_file_gives_the_encoder(weights):
    folder, expected = weights
    found = flat(task(folder, ("cross_video",)).init().params["image"])
    assert found and all((array == expected[name]).all() for name, array in found.items())


def test_a_frozen_teacher_keeps_its_bits_and_everything_else_moves(weights):
    folder, expected = weights
    frozen = task(folder, image_branch__train="frozen", optimizer__warmup="0_steps")
    drawn, before = samples(frozen.config, 8), flat(frozen.init().params)
    after = flat(frozen.step(frozen.init(), {name: drawn[name] for name in ("video", "frame_index")})[0].params)
    for name, array in after.items():
        teacher = name.startswith("/image/encoder/")
        if teacher:
            np.testing.assert_array_equal(array, expected[name.removeprefix("/image")])
        elif not name.endswith("/key/bias"):  # softmax does not see what is added to every key
            assert (array != before[name]).any(), name


def test_a_file_that_does_not_fit_is_named_with_the_field(weights):
    folder, _ = weights
    with pytest.raises(ConfigError, match="config.image_branch.init_from: .*damaged.safetensors"):
        task(folder / "damaged.safetensors").init()
    with pytest.raises(
        ConfigError, match="config.image_branch.init_from: .*these flags: --config.image_branch.positions=sincos2d$"
    ):
        task(folder, image_branch__positions="separable").init()
    with pytest.raises(ConfigError, match="config.image_branch.init_from: no weights at"):
        task(folder / "absent").init()
