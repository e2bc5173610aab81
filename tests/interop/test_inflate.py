"""An image MAE as the start of a video encoder: a clip of one frame repeated gets the image encoder's outputs."""

import dataclasses

import jax
import numpy as np
import pytest

from cvmae.interop.adapt import InitFrom, load_encoder
from cvmae.interop.inflate import inflate
from cvmae.interop.key_maps.mae import MAE, MAE_CLASSIFIER
from cvmae.interop.pretrained import Pretrained, differences, shapes
from cvmae.models.patches import Grid
from tests.interop.models import image_mae, random_params, save_weights

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def source(**changes) -> Pretrained:
    module = image_mae(**changes)
    assert module.decoder is not None
    return Pretrained("an image MAE", module.encoder, random_params(module), module.decoder.spec, normalization=IMAGENET)


def embeddings(module, params, clip):
    """The inputs of the first block."""
    module = module.clone(
        trunk=dataclasses.replace(module.trunk, size=dataclasses.replace(module.trunk.size, depth=0)), final_norm=False
    )
    params = {key: value for key, value in params.items() if key not in ("blocks", "norm")}
    return jax.jit(module.apply)({"params": params}, clip)


@pytest.mark.parametrize("kind", ["mean", "center"])
@pytest.mark.parametrize("positions", ["sincos2d", "learned", "separable"])
def test_one_frame_repeated(kind, positions):
    image = source(positions=positions)
    video = inflate(image, Grid(6, 24, 24, 3, 8), kind)
    assert not differences(video.params, {"encoder": shapes(video.encoder)}) and video.parts == ("encoder",)
    frame = np.random.default_rng(0).normal(size=(2, 1, 24, 24, 3)).astype(np.float32)
    expected = embeddings(image.encoder, image.params["encoder"], frame)
    adapted = embeddings(video.encoder, video.params["encoder"], np.repeat(frame, 6, axis=1))
    for t in range(2):
        np.testing.assert_allclose(adapted.tokens[:, t * 9 : (t + 1) * 9], expected.tokens, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(adapted.cls, expected.cls, rtol=1e-6)


def test_one_time_patch_is_the_image_encoder():
    """With a single time patch nothing is added to what attention sees, so the whole encoder gives the image's tokens."""
    image = source()
    video = inflate(image, Grid(2, 24, 24, 2, 8), "mean")
    frame = np.random.default_rng(0).normal(size=(2, 1, 24, 24, 3)).astype(np.float32)
    expected = jax.jit(image.encoder.apply)({"params": image.params["encoder"]}, frame)
    adapted = jax.jit(video.encoder.apply)({"params": video.params["encoder"]}, np.repeat(frame, 2, axis=1))
    np.testing.assert_allclose(adapted.tokens, expected.tokens, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(adapted.cls, expected.cls, rtol=1e-4, atol=1e-4)


def test_mean_sees_every_frame_and_center_one():
    draw = np.random.default_rng(0)
    clip = draw.normal(size=(1, 3, 24, 24, 3)).astype(np.float32)
    for kind, seen in (("mean", (True, True, True)), ("center", (False, True, False))):
        video = inflate(source(), Grid(3, 24, 24, 3, 8), kind)
        before = embeddings(video.encoder, video.params["encoder"], clip).tokens
        for frame in range(3):
            changed = clip.copy()
            changed[:, frame] += 1
            after = embeddings(video.encoder, video.params["encoder"], changed).tokens
            assert (np.abs(after - before).max() > 1e-3) == seen[frame], (kind, frame)


def test_what_cannot_be_inflated():
    video = inflate(source(), Grid(6, 24, 24, 3, 8), "mean")
    with pytest.raises(ValueError, match="is a video encoder of 6 frames already: leave inflate at 'none'"):
        inflate(video, Grid(6, 24, 24, 3, 8), "mean")
    with pytest.raises(ValueError, match="inflate is 'none'; expected one of none, mean, center"):
        inflate(source(), Grid(6, 24, 24, 3, 8), "none")


def test_a_file_of_images_into_a_branch_of_videos(tmp_path):
    """Another size too: the spatial table, which was fixed, is interpolated; without the option the message names it."""
    module = image_mae()
    params, file = random_params(module), tmp_path / "mae.safetensors"
    save_weights(file, params, MAE, module.encoder.grid)
    trunk = dataclasses.replace(module.encoder.trunk, eps=1e-6)
    video = module.encoder.clone(trunk=trunk, grid=Grid(8, 32, 32, 2, 8), positions="separable")
    adapted, notes = load_encoder(InitFrom(str(file), inflate="mean"), video)
    assert not differences(adapted, shapes(video))
    assert "image encoder inflated (mean) over tubelets of 2 frames and 4 time patches" in notes
    assert "positions/space 3x3 -> 4x4 interpolated" in notes
    np.testing.assert_array_equal(
        adapted["blocks"]["block0"]["mlp_in"]["kernel"], params["encoder"]["blocks"]["block0"]["mlp_in"]["kernel"]
    )
    with pytest.raises(ValueError, match="is an encoder of images: give config.video_branch.inflate"):
        load_encoder(InitFrom(str(file)), video)


def test_a_fine_tuned_image_classifier_gives_its_trained_table(tmp_path):
    module = image_mae(positions="learned").encoder
    params, file = random_params(module), tmp_path / "classifier.safetensors"
    head = {"kernel": np.zeros((16, 5), np.float32), "bias": np.zeros(5, np.float32)}
    save_weights(file, {"encoder": params, "head": head}, MAE_CLASSIFIER, module.grid)
    video = module.clone(trunk=dataclasses.replace(module.trunk, eps=1e-6), grid=Grid(4, 24, 24, 2, 8), positions="separable")
    adapted, _ = load_encoder(InitFrom(str(file), inflate="center"), video)
    np.testing.assert_array_equal(adapted["positions"]["space"], params["positions"]["table"])
    np.testing.assert_array_equal(adapted["positions"]["time"], np.zeros((2, 16)))
    np.testing.assert_array_equal(adapted["positions"]["cls"], params["positions"]["cls"])
