"""Frames become clips as Pillow resizes them, and exactly where they are of the right size already."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cvmae.interop.preprocessing import Preprocessing, preprocessing_of
from cvmae.models.patches import Grid
from tests.interop.pretrained_models import NORMALIZATION, pretrained, videomae

MEAN, STD = np.array(NORMALIZATION["mean"]), np.array(NORMALIZATION["std"])


def frames(*shape, seed=0):
    """Noise, in which every pixel counts, over a ramp, so that a flip or a swap of channels shows."""
    draw = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, shape[-1])[:, None] + np.linspace(0, 60, 3)
    return (draw.integers(0, 76, (*shape, 3)) + ramp).astype(np.uint8)


def by_pillow(video, scaled, box):
    """Levels 0..255 of clips [B, T, H0, W0, 3], each frame resized to `scaled` = (H, W) and cut to `box`, as Pillow does both."""
    top, left, height, width = box
    images = [Image.fromarray(f).resize(scaled[::-1], Image.Resampling.BILINEAR) for f in video.reshape(-1, *video.shape[2:])]
    cut = [np.asarray(image.crop((left, top, left + width, top + height))) for image in images]
    return np.stack(cut).reshape(*video.shape[:2], height, width, 3)


def test_frames_of_the_right_size_are_normalized_and_nothing_else():
    video = frames(2, 3, 16, 24)
    make = Preprocessing(3, 16, 24, **NORMALIZATION)
    expected = (video / 255 - MEAN) / STD
    actual = make(video)
    assert isinstance(actual, jax.Array) and actual.dtype == jnp.float32 and actual.shape == video.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.round((np.asarray(actual) * STD + MEAN) * 255), video)
    np.testing.assert_array_equal(make(video[0]), actual[:1])
    np.testing.assert_array_equal(make(jnp.asarray(video)), actual)
    np.testing.assert_array_equal(jax.jit(make)(video), jax.jit(make)(jnp.asarray(video)))
    np.testing.assert_allclose(jax.jit(make)(video), expected, rtol=0, atol=1e-6)


# Frames, crop, how the whole frame is resized and where the crop lies, from the rule: cover the crop, cut the center.
CASES = {
    "landscape": ((37, 61), (16, 16), (16, 26), (0, 5)),
    "portrait": ((61, 37), (16, 16), (26, 16), (5, 0)),
    "odd margins": ((17, 24), (16, 16), (16, 22), (0, 3)),
    "smaller frames": ((12, 20), (32, 32), (32, 53), (0, 10)),
    "wide crop": ((40, 50), (16, 24), (19, 24), (1, 0)),
    "tall crop": ((40, 90), (24, 16), (24, 54), (0, 19)),
    "a cut alone": ((16, 30), (16, 16), (16, 30), (0, 7)),
}


@pytest.mark.parametrize("name", CASES)
def test_resize_and_crop(name):
    size, crop, scaled, corner = CASES[name]
    video = frames(2, 2, *size)
    levels = (np.asarray(Preprocessing(2, *crop, **NORMALIZATION)(video)) * STD + MEAN) * 255
    expected = by_pillow(video, scaled, (*corner, *crop))
    difference = np.abs(levels - expected)
    print(f"{name}: differs by up to {difference.max():.2f} levels, {difference.mean():.2f} in the mean")
    # Pillow rounds twice, by half a level at most each time, the first error not growing in the second axis.
    assert difference.max() < 1.01
    assert abs((levels - expected).mean()) < 0.2


def test_it_is_that_of_the_weights():
    source = pretrained(videomae(grid=Grid(4, 16, 24, 2, 8)), normalization={"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)})
    assert preprocessing_of(source) == Preprocessing(4, 16, 24, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    unknown = preprocessing_of(dataclasses.replace(source, normalization={}))
    assert (unknown.mean, unknown.std) == (None, None)
    with pytest.raises(ValueError, match=r"do not record their normalization: take dataclasses.replace\(prep.*mean"):
        unknown(frames(4, 16, 24))
    dataclasses.replace(unknown, **NORMALIZATION)(frames(4, 16, 24))


@pytest.mark.parametrize(
    "video, message",
    [
        (frames(3, 16, 16), "a clip has 3 frames; this encoder takes exactly 4: sample as many"),
        (frames(2, 5, 16, 16), "a clip has 5 frames; this encoder takes exactly 4"),
        (frames(4, 16, 16) / 255, "frames are float64; expected uint8, RGB in 0..255"),
        (frames(4, 16, 16)[..., :2], r"frames are \[4, 16, 16, 2\]; expected \[T, H, W, 3\] or \[B, T, H, W, 3\]"),
        (frames(16, 16), r"frames are \[16, 16, 3\]; expected"),
        (frames(4, 16, 16)[:, :0], r"frames are \[4, 0, 16, 3\]; expected"),
    ],
)
def test_what_is_no_clip(video, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(4, 16, 16, **NORMALIZATION)(video)
