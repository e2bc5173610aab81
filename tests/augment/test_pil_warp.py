"""Geometric operations, each compared with PIL on the same frames."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from cvmae.augment import pil
from tests.augment.pil import each_frame, unlike_frames

VIDEO = unlike_frames(29, 38)
FILL = (124, 116, 104)
MATRICES = {
    "shear_x": lambda s: (1, s, 0, 0, 1, 0),
    "shear_y": lambda s: (1, 0, 0, s, 1, 0),
    "translate_x": lambda s: (1, 0, s, 0, 1, 0),
    "translate_y": lambda s: (1, 0, 0, 0, 1, s),
}
STRENGTHS = {"shear": (0.2871, -0.1234, 0.3), "translate": (3.4567, -11.2345, 5.0, 60.0), "rotate": (21.345, -6.789, 30.0)}


def with_pil(image, name, strength, interpolation):
    resample = Image.Resampling[interpolation.upper()]
    if name == "rotate":
        return image.rotate(strength, resample=resample, fillcolor=FILL)
    matrix = MATRICES[name](strength)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)


@pytest.mark.parametrize("interpolation", pil.INTERPOLATIONS)
@pytest.mark.parametrize("name", [*MATRICES, "rotate"])
def test_against_pil(name, interpolation):
    warp = jax.jit(functools.partial(getattr(pil, name), fill=FILL, interpolation=interpolation))
    for strength in STRENGTHS[name.split("_")[0]]:
        strength = float(np.float32(strength))
        warped = np.asarray(warp(VIDEO, strength), np.int32)
        differ = np.abs(warped - each_frame(VIDEO, lambda image, s=strength: with_pil(image, name, s, interpolation)))
        assert differ.max() <= 1, strength
        # A round strength makes many exact results integers, which PIL and this code may round differently.
        is_round = strength in (30.0, float(np.float32(0.3)))
        assert (differ > 0).mean() < (0.06 if is_round else 0.002), strength


def test_all_that_left_the_frame_is_filled():
    gone = np.asarray(jax.jit(lambda video: pil.translate_y(video, -100.0, FILL))(VIDEO))
    np.testing.assert_array_equal(gone, np.broadcast_to(np.uint8(FILL), VIDEO.shape))
