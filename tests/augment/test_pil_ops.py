"""Color operations, each compared with PIL on the same frames."""

import jax
import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from cvmae.augment import pil
from tests.augment.pil import each_frame, unlike_frames

VIDEO = unlike_frames()
LARGE = unlike_frames(64, 64, seed=1)  # where PIL equalizes in steps of more than one pixel
FACTORS = [float(np.float32(f)) for f in (0.1, 0.37, 0.55, 1.0, 1.21, 1.63, 1.9)]


def ours(operation, *strength, video=VIDEO):
    return np.asarray(operation(video, *strength), np.int32)


@pytest.mark.parametrize("name, video", [("invert", VIDEO), ("equalize", VIDEO), ("equalize", LARGE)])
def test_without_strength(name, video):
    np.testing.assert_array_equal(ours(jax.jit(getattr(pil, name)), video=video), each_frame(video, getattr(ImageOps, name)))


@pytest.mark.parametrize("name, strengths", [("solarize", (0, 1, 77, 255, 256)), ("posterize", range(1, 9))])
def test_with_integer_strength(name, strengths):
    operation = jax.jit(getattr(pil, name))
    for strength in strengths:
        expected = each_frame(VIDEO, lambda image, s=strength: getattr(ImageOps, name)(image, s))
        np.testing.assert_array_equal(ours(operation, strength), expected, err_msg=str(strength))


@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness"])
def test_enhancers(name):
    enhancer, operation = getattr(ImageEnhance, name.capitalize()), jax.jit(getattr(pil, name))
    for factor in FACTORS:
        expected = each_frame(VIDEO, lambda image, f=factor: enhancer(image).enhance(f))
        differ = np.abs(ours(operation, np.float32(factor)) - expected)
        # Where a compiler fuses the product and the sum, exact integers may be truncated to the next lower one.
        assert differ.max() <= 1 and (differ > 0).mean() < 0.002, factor


def test_autocontrast_is_at_most_one_level_above_where_pil_rounds_down():
    differ = ours(jax.jit(pil.autocontrast), video=LARGE) - each_frame(LARGE, ImageOps.autocontrast)
    assert set(np.unique(differ)) <= {0, 1}
    assert (differ > 0).mean() < 0.01


def test_autocontrast_of_every_pair_of_extremes():
    """Frames of 256 pixels hold the values lo..hi, repeated: every value between every 8th pair of extremes."""
    pairs = [(lo, hi) for lo in range(0, 250, 8) for hi in range(lo + 1, 256, 8)]
    frames = [np.resize(np.arange(lo, hi + 1), (16, 16, 1)).repeat(3, -1) for lo, hi in pairs]
    video = np.stack(frames).astype(np.uint8)
    exact = np.stack([(v.astype(int) - lo) * 255 // (hi - lo) for v, (lo, hi) in zip(video, pairs)])
    np.testing.assert_array_equal(ours(jax.jit(pil.autocontrast), video=video), exact)


def test_solarize_add_and_no_bits():
    values = VIDEO.astype(np.int32)
    operation = jax.jit(pil.solarize_add)
    for add in (0, 55, 110, 200):
        expected = np.where(values < 128, np.minimum(values + add, 255), values)
        np.testing.assert_array_equal(ours(operation, add), expected)
    assert not ours(jax.jit(pil.posterize), 0).any()  # black, as in older releases of PIL
