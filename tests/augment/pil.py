"""PIL applied to the frames of a clip: the reference for the augmentations."""

import numpy as np
from PIL import Image, ImageFilter


def each_frame(video, change):
    """Applies `change`, a function of a PIL image, to every frame: uint8 [T, H, W, 3] -> int32 of the same shape."""
    return np.stack([np.asarray(change(Image.fromarray(frame)), np.int32) for frame in video])


def unlike_frames(height=19, width=26, seed=0):
    """A clip of five frames with different histograms: noise, dark noise, two colors, one color, and a smooth one."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise[4]).filter(ImageFilter.GaussianBlur(3))
    two = np.where(noise[2] > 240, 9, 200)
    frames = [noise[0], noise[1] // 4 + 20, two, np.full_like(noise[3], 77), np.asarray(smooth)]
    return np.stack(frames).astype(np.uint8)
