"""Color jitter: the effect of each strength, and its probability."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import augment
from cvmae.augment import Color
from cvmae.augment.color import _rotate_hue
from tests.augment.random_clips import clip

KEY = jax.random.key(7)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_strength_acts_and_stays_in_range(name):
    video = jnp.asarray(clip(2), jnp.float32) / 255
    keys = jax.random.split(KEY, 20)
    color = Color(**({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: 0.3}))
    made = jax.vmap(lambda k: augment.jitter_color(k, video, color))(keys)
    assert made.min() >= 0 and made.max() <= 1
    assert np.abs(made - video).max() > 0.05
    if name == "saturation":  # gray stays gray
        gray = jnp.broadcast_to(video[..., :1], video.shape)
        np.testing.assert_allclose(augment.jitter_color(KEY, gray, color), gray, atol=1e-5)


def test_color_probability():
    video = jnp.asarray(clip(1), jnp.float32) / 255
    made = jax.vmap(lambda k: augment.jitter_color(k, video, Color(probability=0.25)))(jax.random.split(KEY, 400))
    assert abs((np.abs(made - video).max(axis=(1, 2, 3, 4)) > 1e-6).mean() - 0.25) < 0.07


def test_hue_turns_red_to_green_in_a_third_of_a_circle():
    red = jnp.array([[[[1.0, 0.0, 0.0]]]])
    np.testing.assert_allclose(_rotate_hue(red, 1 / 3)[0, 0, 0], [0, 1, 0], atol=1e-5)
    turned = np.asarray(_rotate_hue(jnp.array([[[[0.6, 0.4, 0.4]]]]), 1 / 3)[0, 0, 0])
    assert colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(1 / 3, abs=1e-3)


def test_channels_may_lie_on_another_axis():
    video = jnp.asarray(clip(2), jnp.float32) / 255
    color = Color(hue=0.2, probability=0.5)
    for key in jax.random.split(KEY, 6):
        planar = augment.jitter_color(key, video.transpose(1, 0, 3, 2), color, axis=2).transpose(1, 0, 3, 2)
        np.testing.assert_allclose(planar, augment.jitter_color(key, video, color), atol=1e-6)


def test_normalize():
    np.testing.assert_allclose(
        augment.normalize(jnp.full((2, 3), 0.5), (0.5, 0.4, 0.3), (1.0, 0.1, 0.2)), [[0, 1, 1]] * 2, rtol=1e-5
    )
    patches = augment.normalize(jnp.full((2, 4, 6), 0.5), (0.5, 0.4, 0.3), (1.0, 0.1, 0.2))
    np.testing.assert_allclose(patches, np.broadcast_to([0, 1, 1] * 2, (2, 4, 6)), rtol=1e-5)
