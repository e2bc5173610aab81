"""Labeled views: the order of the steps, flips that swap labels, repeats, and independence of the samples."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.augment import Crop, Erasing, LabeledSpec, RandAugment, labeled_clips, labeled_view, labeled_views
from cvmae.augment.finetune_views import flip
from tests.augment.random_clips import clip

KEY = jax.random.key(23)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
FULL_FRAME = LabeledSpec(Crop((8, 8), (1.0, 1.0), (1.0, 1.0)), MEAN, STD)
KEYS = jax.random.split(KEY, 3)
VIDEOS = np.stack([clip(seed=seed) for seed in range(3)])
LABELS = np.arange(3, dtype=np.int32)


@functools.partial(jax.jit, static_argnums=(3, 4))
def views(keys, video, labels, spec, repeats=1):
    return labeled_views(keys, video, labels, spec, repeats)


def first_view(spec):
    """The augmented first clip, normalized."""
    return np.asarray(views(KEYS[:1], VIDEOS[:1], LABELS[:1], spec)[0][0])


def pixels(made):
    """Undoes the normalization: pixels in 0..255."""
    return (np.asarray(made) * STD + MEAN) * 255


def test_repeats_are_views_of_one_clip_next_to_each_other():
    made, labels, keys = views(KEYS, VIDEOS, LABELS, FULL_FRAME, 2)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, (VIDEOS.repeat(2, axis=0) / 255 - MEAN) / STD, atol=1e-5)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 6


def test_each_view_draws_its_own_crop():
    spec = LabeledSpec(Crop((4, 6), (0.2, 0.5)), MEAN, STD)
    made, _, keys = views(KEYS[:1], VIDEOS[:1], LABELS[:1], spec, 2)
    assert made.shape == (2, 4, 4, 6, 3)
    assert np.abs(made[0] - made[1]).max() > 0.1
    again, _ = jax.jit(lambda key: labeled_view(key, jnp.asarray(VIDEOS[0]), jnp.int32(0), spec))(keys[0])
    assert np.abs(again - made[0]).max() > 0.1  # the returned keys were not used for the views


def test_randaugment_comes_on_the_uint8_frames():
    made = pixels(first_view(dataclasses.replace(FULL_FRAME, rand_augment=RandAugment(layers=2, probability=1.0))))
    np.testing.assert_allclose(made, made.round(), atol=1e-2)
    assert np.abs(made - VIDEOS[0]).max() > 5


def test_erasing_comes_after_normalization():
    made = first_view(dataclasses.replace(FULL_FRAME, erasing=Erasing(1.0, (1.0, 1.0), (1.0, 1.0))))
    assert abs(made.mean()) < 0.1 and np.abs(made.std(axis=(0, 1, 2)) - 1).max() < 0.15


@pytest.mark.parametrize("mirror", [None, (1, 0, 2, -1)])
def test_a_flip_takes_the_label_of_the_mirrored_class(mirror):
    labels = np.array([0, 1, 2, 3, -1], np.int32)
    made, flipped_labels = jax.jit(jax.vmap(lambda label: flip(KEY, jnp.asarray(VIDEOS[0]), label, 1.0, mirror)))(labels)
    turned = [(row == VIDEOS[0][:, :, ::-1]).all() for row in np.asarray(made)]
    if mirror is None:
        assert all(turned)
        np.testing.assert_array_equal(flipped_labels, labels)
    else:
        assert turned == [True, True, True, False, True]
        np.testing.assert_array_equal(made[3], VIDEOS[0])
        np.testing.assert_array_equal(flipped_labels, [1, 0, 2, 3, -1])


def test_labels_swap_exactly_where_clips_flip():
    spec = dataclasses.replace(FULL_FRAME, crop=dataclasses.replace(FULL_FRAME.crop, flip=0.3), mirror=(1, 0))
    view = jax.jit(jax.vmap(lambda key: labeled_view(key, jnp.asarray(VIDEOS[0, :1]), jnp.int32(0), spec)))
    made, labels = view(jax.random.split(KEY, 400))
    turned = np.abs(pixels(made) - VIDEOS[0, :1, :, ::-1]).max(axis=(1, 2, 3, 4)) < 1e-2
    np.testing.assert_array_equal(turned, np.asarray(labels) == 1)
    assert abs(turned.mean() - 0.3) < 0.07


def test_a_row_does_not_depend_on_the_others():
    spec = LabeledSpec(Crop((8, 8), (0.2, 1.0), flip=0.5), MEAN, STD, erasing=Erasing(0.5), mirror=(1, 0, 2))
    together = views(KEYS, VIDEOS, LABELS, spec, 2)
    turned = views(KEYS[::-1], VIDEOS[::-1], LABELS[::-1], spec, 2)
    for row in range(3):
        here, there = slice(2 * row, 2 * row + 2), slice(4 - 2 * row, 6 - 2 * row)
        np.testing.assert_array_equal(together[0][here], turned[0][there])
        np.testing.assert_array_equal(together[1][here], turned[1][there])
        np.testing.assert_array_equal(
            *(jax.random.key_data(keys)[rows] for keys, rows in ((together[2], here), (turned[2], there)))
        )


@functools.partial(jax.jit, static_argnums=(3, 4))
def clips_of_videos(keys, video, labels, spec, clips):
    return labeled_clips(keys, video, labels, spec, clips)


def test_the_clips_of_a_video_are_flipped_together_with_its_label():
    """Labels 0 and 1 are each other's mirror image, videos of label 2 are not flipped."""
    spec = dataclasses.replace(FULL_FRAME, crop=dataclasses.replace(FULL_FRAME.crop, flip=0.5), mirror=(1, 0, -1))
    videos = np.stack([np.concatenate([clip(seed=3 * seed + part) for part in range(3)]) for seed in range(24)])
    labels = np.arange(24, dtype=np.int32) % 3
    made, found, keys = clips_of_videos(jax.random.split(KEY, 24), videos, labels, spec, 3)
    assert made.shape == (24, 12, 8, 8, 3) and len(np.unique(jax.random.key_data(keys), axis=0)) == 24
    flipped = np.asarray(found) != labels
    assert 0 < flipped.sum() < 16 and not flipped[2::3].any()
    expected = np.where(flipped[:, None, None, None, None], videos[:, :, :, ::-1], videos)
    np.testing.assert_allclose(pixels(made), expected, atol=1e-2)


def test_each_clip_of_a_video_has_a_crop_of_its_own():
    spec = LabeledSpec(Crop((4, 6), (0.2, 0.5)), MEAN, STD)
    videos = np.concatenate([VIDEOS, VIDEOS], axis=1)  # the second clip is the first
    made, _, _ = clips_of_videos(KEYS, videos, LABELS, spec, 2)
    assert (np.abs(made[:, :4] - made[:, 4:]).max((1, 2, 3, 4)) > 0.1).all()
    alone, _, _ = clips_of_videos(KEYS[1:2], videos[1:2], LABELS[1:2], spec, 2)
    np.testing.assert_allclose(alone[0], made[1], atol=1e-5)
