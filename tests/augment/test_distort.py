"""Grayscale, blur and solarization, against Pillow and SciPy, and their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage

from cvmae.augment import Distortion, distort, from_planes, to_gray
from cvmae.augment.distort import blur
from cvmae.augment.geometry import to_planes
from tests.augment.random_clips import clip

KEY = jax.random.key(3)


def distorted(video, distortion, key=KEY):
    """A uint8 clip [T, H, W, 3] after `distort`, in 0..255."""
    planes = to_planes(jnp.asarray(video, jnp.float32) / 255)
    return np.asarray(from_planes(distort(key, planes, distortion))) * 255


def test_gray_is_pillows_to_half_a_level():
    expected = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in clip()])
    gray = distorted(clip(), Distortion(grayscale=1.0))
    np.testing.assert_array_equal(gray, gray[..., :1].repeat(3, axis=-1))
    assert np.abs(gray[..., 0] - expected).max() < 0.51
    np.testing.assert_allclose(to_gray(jnp.asarray(clip() / 255.0, jnp.float32))[..., 0] * 255, gray[..., 0], atol=1e-3)


def test_solarized_is_pillows():
    expected = np.stack([np.asarray(ImageOps.solarize(Image.fromarray(frame), 128)) for frame in clip()])
    np.testing.assert_allclose(distorted(clip(), Distortion(solarize=1.0)), expected, atol=1e-3)


@pytest.mark.parametrize(("size", "sigma"), [((40, 64), 1.7), ((40, 64), 0.1), ((3, 3), 2.0)])
def test_a_blur_is_scipys(size, sigma):
    video = clip(2, *size) / 255.0
    expected = video
    for axis in (1, 2):
        radius = max(1, round(size[axis - 1] / 20))
        expected = ndimage.gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", radius=radius)
    made = from_planes(blur(to_planes(jnp.asarray(video, jnp.float32)), jnp.float32(sigma)))
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["grayscale", "blur", "solarize"])
def test_each_comes_with_its_probability_and_alone(name):
    planes = to_planes(jnp.asarray(clip(1), jnp.float32) / 255)
    keys = jax.random.split(KEY, 400)
    changed = {
        share: np.asarray(
            jax.vmap(lambda k, share=share: jnp.abs(distort(k, planes, Distortion(**{name: share})) - planes).max())(keys)
        )
        for share in (0.0, 0.25, 1.0)
    }
    assert (changed[0.0] == 0).all()
    assert abs((changed[0.25] > 1e-6).mean() - 0.25) < 0.07
    assert (changed[1.0] > 1e-6).mean() > 0.9  # a blur of 0.1 pixels changes nothing


def test_all_frames_of_a_clip_are_changed_alike():
    still = np.repeat(clip(1), 3, axis=0)
    for key in jax.random.split(KEY, 8):
        made = distorted(still, Distortion(0.5, 0.5, 0.5), key)
        np.testing.assert_allclose(made, np.broadcast_to(made[:1], made.shape), atol=1e-4)
