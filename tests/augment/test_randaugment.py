"""RandAugment: operations, strengths and probabilities; one draw per clip, alone or in a batch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cvmae.augment import RandAugment, rand_augment_clips
from cvmae.augment import randaugment as ra
from tests.augment.pil import each_frame, unlike_frames
from tests.augment.random_clips import clip

KEY = jax.random.key(3)
VIDEO = unlike_frames(20, 30)
SPEC = RandAugment(layers=2, probability=1.0, fill=(124, 116, 104))
ENHANCERS = ("Color", "Contrast", "Brightness", "Sharpness")


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=SPEC.fill)


def by_pil(name, magnitude, sign):
    """The operation as timm defines it, as a function of a PIL image; restated from timm's docstrings and tables."""
    level = magnitude / 10
    if name.removesuffix("Increasing") in ENHANCERS:
        return lambda image: getattr(ImageEnhance, name.removesuffix("Increasing"))(image).enhance(1 + sign * 0.9 * level)
    added = [min(255, v + int(level * 110)) if v < 128 else v for v in range(256)]
    bits = 4 - int(level * 4)
    return {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": ImageOps.invert,
        "Rotate": lambda i: i.rotate(sign * 30 * level, resample=Image.Resampling.BICUBIC, fillcolor=SPEC.fill),
        "PosterizeIncreasing": lambda i: ImageOps.posterize(i, bits) if bits else Image.new("RGB", i.size),
        "SolarizeIncreasing": lambda i: ImageOps.solarize(i, 256 - int(level * 256)),
        "SolarizeAdd": lambda i: i.point(added * 3),
        "ShearX": lambda i: affine(i, 1, sign * 0.3 * level, 0, 0, 1, 0),
        "ShearY": lambda i: affine(i, 1, 0, 0, sign * 0.3 * level, 1, 0),
        "TranslateXRel": lambda i: affine(i, 1, 0, sign * 0.45 * level * i.size[0], 0, 1, 0),
        "TranslateYRel": lambda i: affine(i, 1, 0, 0, 0, 1, sign * 0.45 * level * i.size[1]),
    }[name]


@jax.jit
def apply(video, drawn):
    """Compiled once for all tests with clips of VIDEO's shape and two layers."""
    return ra.apply(video, drawn, SPEC)


@functools.partial(jax.jit, static_argnums=1)
def draw(keys, spec):
    return jax.vmap(lambda key: ra.draw(key, spec))(keys)


def row_of(draws, row):
    return jax.tree.map(lambda array: array[row], draws)


def drawn(names, magnitude, sign=1, acts=(True, True)):
    """A draw of two layers; of a single name, a layer that acts and one that does not."""
    acts = acts if len(names) == 2 else (True, False)
    operations = np.resize([ra.NAMES.index(name) for name in names], 2).astype(np.int32)
    return ra.Draw(operations, np.full(2, magnitude, np.float32), np.full(2, sign, np.float32), np.array(acts))


def test_the_operations_are_those_of_timm():
    assert ra.NAMES == (
        "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
        "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing",
        "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
    )  # fmt: skip


@pytest.mark.parametrize("name", ra.NAMES)
def test_each_operation_is_pils_at_every_strength(name):
    for magnitude in (0.0, 2.31, 6.87, 7.61, 10.0):
        for sign in (-1, 1):
            augmented = np.asarray(apply(VIDEO, drawn([name], magnitude, sign)), np.int32)
            differ = np.abs(augmented - each_frame(VIDEO, by_pil(name, magnitude, sign)))
            assert differ.max() <= 1 and (differ > 0).mean() < 0.02, (magnitude, sign)


def test_layers_act_one_after_the_other():
    after = each_frame(each_frame(VIDEO, by_pil("SolarizeAdd", 5, 1)).astype(np.uint8), by_pil("Invert", 5, 1))
    np.testing.assert_array_equal(apply(VIDEO, drawn(["SolarizeAdd", "Invert"], 5)), after)
    np.testing.assert_array_equal(apply(VIDEO, drawn(["SolarizeAdd", "Invert"], 5, acts=(False, False))), VIDEO)


def test_strength_0_changes_nothing():
    exceptions = {"AutoContrast", "Equalize", "Invert", "PosterizeIncreasing"}  # as in timm; `draw` leaves them out then
    for name in set(ra.NAMES) - exceptions:
        for sign in (-1, 1):
            np.testing.assert_array_equal(apply(VIDEO, drawn([name], 0.0, sign)), VIDEO, err_msg=name)
    draws = draw(jax.random.split(KEY, 100), dataclasses.replace(SPEC, magnitude=0.0, deviation=0.0))
    assert len(np.unique(draws.operation)) == len(ra.NAMES)
    for row in range(100):
        np.testing.assert_array_equal(apply(VIDEO, row_of(draws, row)), VIDEO)


def test_draws():
    draws = draw(jax.random.split(KEY, 4000), RandAugment())
    assert draws.operation.shape == (4000, 4)
    fractions = np.bincount(np.ravel(draws.operation), minlength=15) / 16000
    assert len(fractions) == 15 and np.abs(fractions - 1 / 15).max() < 0.01
    assert set(np.unique(draws.sign)) == {-1, 1} and abs(draws.sign.mean()) < 0.03
    assert abs(draws.acts.mean() - 0.5) < 0.02
    assert abs(draws.magnitude.mean() - 7) < 0.02 and abs(draws.magnitude.std() - 0.5) < 0.02
    twice = np.mean([len(set(row)) < 4 for row in np.asarray(draws.operation)])
    assert abs(twice - (1 - 14 * 13 * 12 / 15**3)) < 0.03  # with replacement, layers are independent
    named = np.stack(
        [np.ravel(draws.operation) < 7, np.ravel(draws.sign) > 0, np.ravel(draws.acts), np.ravel(draws.magnitude) > 7]
    )
    assert np.abs(np.corrcoef(named) - np.eye(4)).max() < 0.04


def test_magnitudes_are_clipped_to_0_and_10():
    spec = RandAugment(magnitude=5.0, deviation=8.0, probability=1.0)
    draws = draw(jax.random.split(KEY, 300), spec)
    assert draws.magnitude.min() == 0 and draws.magnitude.max() == 10
    np.testing.assert_array_equal(draws.acts, draws.magnitude > 0)


def test_one_draw_for_all_frames_and_the_same_alone_and_in_a_batch():
    still = np.stack([np.repeat(clip(1, *VIDEO.shape[1:3], seed), len(VIDEO), axis=0) for seed in range(12)])
    keys = jax.random.split(KEY, 12)
    together = np.asarray(jax.jit(lambda k, v: rand_augment_clips(k, v, SPEC))(keys, still))
    assert together.dtype == np.uint8 and together.shape == still.shape
    np.testing.assert_array_equal(together, np.broadcast_to(together[:, :1], still.shape))
    assert (together != still).any(axis=(1, 2, 3, 4)).mean() > 0.8
    draws = draw(keys, SPEC)
    for row in range(12):
        np.testing.assert_array_equal(apply(still[row], row_of(draws, row)), together[row])


@pytest.mark.parametrize(
    "field, message",
    [
        ({"interpolation": "nearest"}, "interpolation is 'nearest'; expected one of bilinear, bicubic"),
        ({"magnitude": 11.0}, "magnitude is 11.0; expected 0 to 10"),
        ({"probability": 1.5}, "probability in 0..1"),
        ({"layers": -1}, "layers and deviation of at least 0"),
    ],
)
def test_bad_fields(field, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**field)
