"""Clips of random pixels for the tests of this folder."""

import numpy as np


def clip(frames=4, height=8, width=8, seed=0):
    """uint8 [frames, height, width, 3]; every value is drawn independently."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
