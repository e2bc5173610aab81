"""Views for pre-training: their content, and independence of the samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import augment
from cvmae.augment import Color, Crop, Distortion, ViewSpec, center_crop
from tests.augment.random_clips import clip

KEY = jax.random.key(7)
FULL_FRAME = Crop((8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0))
PLAIN = Color(0.0, 0.0, 0.0, 0.0)


def views(video, spec, frame_index=(0,), image=True, key=KEY):
    return augment.make_views(key, jnp.asarray(video), jnp.asarray(frame_index), spec, image)


def test_a_crop_of_the_full_frame_changes_nothing():
    made, frames = views(clip(), ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, views=2), frame_index=[2, 3])
    np.testing.assert_allclose(made, np.stack([clip() / 255.0] * 2), atol=1e-6)
    np.testing.assert_allclose(frames, clip()[[2, 3]] / 255.0, atol=1e-6)


def test_one_draw_for_all_frames_of_a_clip():
    still = np.repeat(clip(1), 4, axis=0)
    jittered = ViewSpec(Crop((8, 8), flip=0.5), Crop((8, 8), flip=0.5), Color(), views=3)
    made, _ = views(still, jittered)
    np.testing.assert_allclose(made, np.broadcast_to(made[:, :1], made.shape), atol=1e-6)


def test_the_second_view_is_cropped_on_its_own_and_only_it_is_jittered():
    gray = np.full((2, 8, 8, 3), 100, np.uint8)
    made, _ = views(gray, ViewSpec(Crop((8, 8)), Crop((8, 8)), Color(brightness=0.4), views=2))
    np.testing.assert_allclose(made[0], 100 / 255, atol=1e-5)
    assert abs(made[1].mean() - 100 / 255) > 1e-3
    made, _ = views(clip(), ViewSpec(Crop((8, 8)), Crop((8, 8)), PLAIN, views=2))
    assert np.abs(made[0] - made[1]).max() > 0.05


def test_the_third_view_is_the_clip_backwards_with_its_own_crop_and_jitter():
    made, _ = views(clip(), ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, views=3))
    np.testing.assert_allclose(made[2], clip()[::-1] / 255.0, atol=1e-6)
    made, _ = views(clip(), ViewSpec(Crop((8, 8)), Crop((8, 8)), Color(), views=3))
    assert np.abs(made[2] - made[1][::-1]).max() > 0.05


def test_sampled_frames_share_the_crop_of_v_or_have_their_own():
    shared, independent = (ViewSpec(Crop((8, 8)), Crop((8, 8)), PLAIN, 1, crop) for crop in ("shared", "independent"))
    made, frames = views(clip(), shared, frame_index=[1])
    np.testing.assert_array_equal(frames[0], made[0, 1])
    made, frames = views(clip(), independent, frame_index=[1])
    assert np.abs(frames[0] - made[0, 1]).max() > 0.05
    assert views(clip(), shared, image=False)[1] is None
    with pytest.raises(ValueError, match="image_branch.crop is 'other'"):
        ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, 1, "other")


def test_a_raw_first_view_is_the_centered_clip_without_a_flip():
    video, spec = clip(4, 8, 12), ViewSpec(Crop((6, 6), flip=1.0), Crop((6, 6)), Color(), 2, first_view="raw")
    made, frames = views(video, spec, frame_index=[2])
    np.testing.assert_allclose(made[0], center_crop(jnp.asarray(video, jnp.float32), (6, 6)) / 255, atol=1e-5)
    np.testing.assert_array_equal(frames[0], made[0, 2])


@pytest.mark.parametrize("image_crop", ["shared", "independent"])
def test_a_first_view_with_color_draws_its_own_and_leaves_the_others_as_they_were(image_crop):
    def made(first_view):
        spec = ViewSpec(FULL_FRAME, FULL_FRAME, Color(hue=0.1), 3, image_crop, first_view=first_view)
        return views(clip(), spec, frame_index=[1])

    (plain, plain_frames), (changed, frames) = made("crop"), made("color")
    np.testing.assert_array_equal(plain[1:], changed[1:])
    assert np.abs(plain[0] - changed[0]).max() > 0.05
    assert np.abs(changed[0] - changed[1]).max() > 0.05
    assert np.abs(plain_frames - frames).max() > 0.05
    assert (np.abs(frames[0] - changed[0, 1]).max() < 1e-6) == (image_crop == "shared")


def test_distortions_change_the_views_that_are_jittered():
    def made(first_view, distortion=Distortion(grayscale=1.0)):
        return views(clip(), ViewSpec(Crop((8, 8)), Crop((8, 8)), Color(), 3, "shared", jnp.float32, distortion, first_view))[0]

    def is_gray(view):
        return bool(jnp.abs(view - view[..., :1]).max() < 1e-6)

    assert [is_gray(view) for view in made("crop")] == [False, True, True]
    assert [is_gray(view) for view in made("color")] == [True, True, True]
    np.testing.assert_array_equal(made("crop")[0], made("crop", Distortion())[0])
    with pytest.raises(ValueError, match="augment.first_view is 'other'"):
        ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, first_view="other")


def test_a_sample_does_not_depend_on_the_others():
    spec = ViewSpec(Crop((8, 8), flip=0.5), Crop((8, 8)), Color(), views=3)
    videos, keys = jnp.stack([jnp.asarray(clip(seed=s)) for s in range(3)]), jax.random.split(KEY, 3)
    together = jax.vmap(lambda k, v: augment.make_views(k, v, jnp.array([0]), spec, True)[0])(keys, videos)
    alone = views(videos[1], spec, key=keys[1])[0]
    np.testing.assert_allclose(together[1], alone, atol=1e-6)


def test_views_of_a_shifted_clip_begin_at_frames_of_their_own():
    """Frame i of the clip is of the gray level i, which tells where a view begins."""
    numbered = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], (7, 8, 8, 3))
    spec = ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, 3, plus_shift=3)

    def numbers(pixels):
        return np.rint(np.asarray(pixels)[..., 0, 0, 0] * 255).astype(int)

    begins = []
    for seed in range(24):
        made, frames = views(numbered, spec, frame_index=(1, 3), key=jax.random.key(seed))
        v, plus, backwards = numbers(made)
        np.testing.assert_array_equal(v, v[0] + np.arange(4))
        np.testing.assert_array_equal(plus, plus[0] + np.arange(4))
        np.testing.assert_array_equal(backwards, v[::-1])
        np.testing.assert_array_equal(numbers(frames), v[[1, 3]])
        begins.append((v[0], plus[0]))
    assert {first for first, _ in begins} == {second for _, second in begins} == {0, 1, 2, 3}
    assert len(set(begins)) > 8  # independent of each other


def test_independent_frames_of_a_shifted_clip_are_those_of_v():
    numbered = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], (7, 8, 8, 3))
    spec = ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, 1, "independent", plus_shift=3)
    for seed in range(8):
        made, frames = views(numbered, spec, frame_index=(2,), key=jax.random.key(seed))
        np.testing.assert_allclose(frames[0], made[0, 2], atol=1e-6)


def test_the_shared_fraction_is_that_of_the_drawn_starts():
    spec = ViewSpec(FULL_FRAME, FULL_FRAME, PLAIN, 2, plus_shift=6)
    starts = np.asarray(jax.vmap(lambda key: augment.draw_starts(key, spec))(jax.random.split(KEY, 4000)))
    measured = [len(set(range(one, one + 4)) & set(range(two, two + 4))) / 4 for one, two in starts]
    np.testing.assert_allclose(augment.shared_fraction(4, 6), np.mean(measured), atol=0.02)
    assert augment.shared_fraction(4, 0) == 1.0
