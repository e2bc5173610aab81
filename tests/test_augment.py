"""Views: what they are, and that nothing of a sample depends on the others."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import augment
from cvmae.augment import Color, Crop, ViewSpec

KEY = jax.random.key(7)
WHOLE = Crop((8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0))
PLAIN = Color(0.0, 0.0, 0.0, 0.0)


def clip(frames=4, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def views(video, spec, frame_index=(0,), image=True, key=KEY):
    return augment.make_views(key, jnp.asarray(video), jnp.asarray(frame_index), spec, image)


def test_the_whole_frame_comes_back_unchanged():
    made, frames = views(clip(), ViewSpec(WHOLE, WHOLE, PLAIN, views=2), frame_index=[2, 3])
    np.testing.assert_allclose(made, np.stack([clip() / 255.0] * 2), atol=1e-6)
    np.testing.assert_allclose(frames, clip()[[2, 3]] / 255.0, atol=1e-6)


def test_a_crop_equals_cutting_and_resizing_by_opencv():
    cv2 = pytest.importorskip("cv2")
    video = clip(1, 12, 12)
    box = jnp.array([2.0, 4.0, 4.0, 4.0])
    found = augment.resample(jnp.asarray(video, jnp.float32), box, (8, 8))[0]
    # Twice as large: bilinear weights do not reach over the border of the box but for the outermost pixels.
    expected = cv2.resize(video[0].astype(np.float32), (24, 24), interpolation=cv2.INTER_LINEAR)[4:12, 8:16]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_boxes_lie_inside_the_frame_and_have_the_area_asked_for():
    crop = Crop((8, 8), scale=(0.25, 0.5), ratio=(0.8, 1.25))
    boxes = jax.vmap(lambda k: augment.draw_box(k, 60, 80, crop))(jax.random.split(KEY, 500))
    top, left, height, width = np.asarray(boxes).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 60 + 1e-3).all() and (left + width <= 80 + 1e-3).all()
    area, ratio = height * width / 4800, width / height
    assert area.min() >= 0.25 - 1e-4 and area.max() <= 0.5 + 1e-4 and np.ptp(area) > 0.2
    assert ratio.min() >= 0.8 - 1e-4 and ratio.max() <= 1.25 + 1e-4 and np.ptp(ratio) > 0.3


def test_one_draw_for_all_frames_of_a_clip():
    still = np.repeat(clip(1), 4, axis=0)
    jittered = ViewSpec(Crop((8, 8), flip=0.5), Crop((8, 8), flip=0.5), Color(), views=3)
    made, _ = views(still, jittered)
    np.testing.assert_allclose(made, np.broadcast_to(made[:, :1], made.shape), atol=1e-6)


@pytest.mark.parametrize("flip, share", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_flip_probability(flip, share):
    video = jnp.asarray(clip(1), jnp.float32)
    crop = Crop((8, 8), (1.0, 1.0), (1.0, 1.0), flip)
    made = jax.vmap(lambda k: augment.random_crop(k, video, crop))(jax.random.split(KEY, 400))
    flipped = np.isclose(made, video[:, :, ::-1], atol=1e-3).all(axis=(1, 2, 3, 4))
    assert abs(flipped.mean() - share) < 0.08


def test_the_second_view_is_cropped_on_its_own_and_only_it_is_jittered():
    grey = np.full((2, 8, 8, 3), 100, np.uint8)
    made, _ = views(grey, ViewSpec(Crop((8, 8)), Crop((8, 8)), Color(brightness=0.4), views=2))
    np.testing.assert_allclose(made[0], 100 / 255, atol=1e-5)
    assert abs(made[1].mean() - 100 / 255) > 1e-3
    made, _ = views(clip(), ViewSpec(Crop((8, 8)), Crop((8, 8)), PLAIN, views=2))
    assert np.abs(made[0] - made[1]).max() > 0.05


def test_the_third_view_is_the_clip_backwards_with_its_own_crop_and_jitter():
    made, _ = views(clip(), ViewSpec(WHOLE, WHOLE, PLAIN, views=3))
    np.testing.assert_allclose(made[2], clip()[::-1] / 255.0, atol=1e-6)
    made, _ = views(clip(), ViewSpec(Crop((8, 8)), Crop((8, 8)), Color(), views=3))
    assert np.abs(made[2] - made[1][::-1]).max() > 0.05


def test_sampled_frames_share_the_crop_of_v_or_have_their_own():
    shared, independent = (ViewSpec(Crop((8, 8)), Crop((8, 8)), PLAIN, 1, kind) for kind in ("shared", "independent"))
    made, frames = views(clip(), shared, frame_index=[1])
    np.testing.assert_array_equal(frames[0], made[0, 1])
    made, frames = views(clip(), independent, frame_index=[1])
    assert np.abs(frames[0] - made[0, 1]).max() > 0.05
    assert views(clip(), shared, image=False)[1] is None
    with pytest.raises(ValueError, match="image_branch.crop is 'other'"):
        ViewSpec(WHOLE, WHOLE, PLAIN, 1, "other")


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_strength_acts_and_stays_in_range(name):
    video = jnp.asarray(clip(2), jnp.float32) / 255
    keys = jax.random.split(KEY, 20)
    color = Color(**({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: 0.3}))
    made = jax.vmap(lambda k: augment.jitter_color(k, video, color))(keys)
    assert made.min() >= 0 and made.max() <= 1
    assert np.abs(made - video).max() > 0.05
    if name == "saturation":  # grey stays grey
        grey = jnp.broadcast_to(video[..., :1], video.shape)
        np.testing.assert_allclose(augment.jitter_color(KEY, grey, color), grey, atol=1e-5)


def test_colour_probability():
    video = jnp.asarray(clip(1), jnp.float32) / 255
    made = jax.vmap(lambda k: augment.jitter_color(k, video, Color(probability=0.25)))(jax.random.split(KEY, 400))
    assert abs((np.abs(made - video).max(axis=(1, 2, 3, 4)) > 1e-6).mean() - 0.25) < 0.07


def test_hue_turns_red_to_green_in_a_third_of_a_circle():
    red = jnp.array([[[[1.0, 0.0, 0.0]]]])
    np.testing.assert_allclose(augment._rotate_hue(red, 1 / 3)[0, 0, 0], [0, 1, 0], atol=1e-5)
    turned = np.asarray(augment._rotate_hue(jnp.array([[[[0.6, 0.4, 0.4]]]]), 1 / 3)[0, 0, 0])
    assert colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(1 / 3, abs=1e-3)


def test_a_sample_does_not_depend_on_the_others():
    spec = ViewSpec(Crop((8, 8), flip=0.5), Crop((8, 8)), Color(), views=3)
    videos, keys = jnp.stack([jnp.asarray(clip(seed=s)) for s in range(3)]), jax.random.split(KEY, 3)
    together = jax.vmap(lambda k, v: augment.make_views(k, v, jnp.array([0]), spec, True)[0])(keys, videos)
    alone = views(videos[1], spec, key=keys[1])[0]
    np.testing.assert_allclose(together[1], alone, atol=1e-6)


def test_centre_crop_keeps_the_middle_and_draws_nothing():
    wide = np.zeros((1, 8, 16, 3), np.float32)
    wide[:, :, 4:12] = 1
    np.testing.assert_allclose(augment.centre_crop(jnp.asarray(wide), (8, 8)), 1)
    same = jnp.asarray(clip(), jnp.float32)
    np.testing.assert_array_equal(augment.centre_crop(same, (8, 8)), same)


def test_standardise():
    np.testing.assert_allclose(
        augment.standardise(jnp.full((2, 3), 0.5), (0.5, 0.4, 0.3), (1.0, 0.1, 0.2)), [[0, 1, 1]] * 2, rtol=1e-5
    )
