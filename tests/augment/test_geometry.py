"""Crops and flips: boxes, pixels, and probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import augment
from cvmae.augment import Crop
from cvmae.augment.geometry import cut_with_clips_last, draw_weights, resize_planes, to_planes
from cvmae.models.patches import patchify
from tests.augment.random_clips import clip

KEY = jax.random.key(7)


# Compiled as a whole: op by op, every operation of every shape would be a program of its own.
resample = jax.jit(augment.resample, static_argnums=2)


def test_a_crop_equals_cutting_and_resizing_by_opencv():
    cv2 = pytest.importorskip("cv2")
    video = clip(1, 12, 12)
    box = np.float32([2, 4, 4, 4])
    resampled = resample(video.astype(np.float32), box, (8, 8))[0]
    # Twice as large: bilinear weights do not reach over the border of the box but for the outermost pixels.
    expected = cv2.resize(video[0].astype(np.float32), (24, 24), interpolation=cv2.INTER_LINEAR)[4:12, 8:16]
    np.testing.assert_allclose(resampled, expected, atol=0.02)


@pytest.mark.parametrize("size", [(8, 8), (24, 40), (33, 7)])  # smaller, larger, and both
def test_a_resize_equals_jax_image(size):
    video = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 20, 30], [3.3, 5.9, 11.1, 17.7], [-4, 20, 12, 16]])  # the last one leaves the frame

    @jax.jit
    def by_jax(pixels, box):
        scale = jnp.asarray(size, jnp.float32) / box[2:]
        return jax.image.scale_and_translate(pixels, (2, *size, 3), (1, 2), scale, -box[:2] * scale, "linear")

    for box in boxes:
        expected = by_jax(video.astype(np.float32), box)
        np.testing.assert_allclose(resample(video, box, size), expected, atol=255 * 2e-5)


def test_a_resize_in_bfloat16_is_nearer_than_the_rounding_of_a_decoder():
    """On noise, which is the worst that pixels can be: below 1 level of 255, and 0.15 in the root mean square."""
    video = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    draw = jax.jit(jax.vmap(lambda k: draw_weights(k, 40, 60, Crop((32, 32), flip=0.5))))
    draws = draw(jax.random.split(KEY, 20))
    resize = jax.jit(resize_planes, static_argnums=3)
    exact, rounded = (np.asarray(resize(to_planes(video), *draws, dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    error = rounded - exact
    assert 0 < np.abs(error).max() < 1 and np.sqrt(np.square(error).mean()) < 0.15
    flat = resize(np.full((40, 3, 2, 60), 255, np.uint8), *draws, jnp.bfloat16)
    np.testing.assert_allclose(flat, 255, atol=1)


@pytest.mark.parametrize("cut", [augment.planes_to_patches, cut_with_clips_last])
@pytest.mark.parametrize(
    "shape, tubelet, patch", [((3, 16, 3, 4, 24), 2, 8), ((2, 32, 3, 1, 48), 1, 16), ((1, 28, 3, 6, 14), 3, 14)]
)
def test_patches_of_planes_are_those_of_the_clips(cut, shape, tubelet, patch):
    for dtype in (jnp.float32, jnp.bfloat16):
        planes = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
        expected = patchify(augment.from_planes(planes), tubelet, patch)
        np.testing.assert_array_equal(cut(planes, tubelet, patch), expected)
        np.testing.assert_array_equal(jax.jit(cut, static_argnums=(1, 2))(planes, tubelet, patch), expected)


def test_boxes_lie_inside_the_frame_and_have_area_and_ratio_in_range():
    crop = Crop((8, 8), scale=(0.25, 0.5), ratio=(0.8, 1.25))
    boxes = jax.vmap(lambda k: augment.draw_box(k, 60, 80, crop))(jax.random.split(KEY, 500))
    top, left, height, width = np.asarray(boxes).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 60 + 1e-3).all() and (left + width <= 80 + 1e-3).all()
    area, ratio = height * width / 4800, width / height
    assert area.min() >= 0.25 - 1e-4 and area.max() <= 0.5 + 1e-4 and np.ptp(area) > 0.2
    assert ratio.min() >= 0.8 - 1e-4 and ratio.max() <= 1.25 + 1e-4 and np.ptp(ratio) > 0.3


@pytest.mark.parametrize("flip, fraction", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_flip_probability(flip, fraction):
    video = jnp.asarray(clip(1), jnp.float32)
    crop = Crop((8, 8), (1.0, 1.0), (1.0, 1.0), flip)
    made = jax.vmap(lambda k: augment.random_crop(k, video, crop))(jax.random.split(KEY, 400))
    flipped = np.isclose(made, video[:, :, ::-1], atol=1e-3).all(axis=(1, 2, 3, 4))
    assert abs(flipped.mean() - fraction) < 0.08


def test_center_crop_keeps_the_middle():
    wide = np.zeros((1, 8, 16, 3), np.float32)
    wide[:, :, 4:12] = 1
    np.testing.assert_allclose(augment.center_crop(jnp.asarray(wide), (8, 8)), 1)
    same = jnp.asarray(clip(), jnp.float32)
    np.testing.assert_array_equal(augment.center_crop(same, (8, 8)), same)
