"""Heat maps: values of patches as colors of pixels."""

import numpy as np
from PIL import Image

ATTENTION_COLORS, SEMANTIC_COLORS = "inferno", "viridis"


def upsample(maps, size: tuple[int, int]) -> np.ndarray:
    """Upsamples maps [..., h, w] to `size` = (H, W) pixels, float32; row 0 stays at the top.

    Bicubic interpolation between the centers of patches, clipped to the range of the input.
    """
    maps = np.asarray(maps, np.float32)
    flat = maps.reshape(-1, *maps.shape[-2:])
    images = [np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC)) for values in flat]
    return np.clip(np.stack(images).reshape(*maps.shape[:-2], *size), maps.min(), maps.max())


def scaled(maps) -> np.ndarray:
    """Scales maps linearly from their minimum and maximum to 0..1; zeros if the two are equal."""
    maps = np.asarray(maps, np.float32)
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)


def color(values, colors: str) -> np.ndarray:
    """Colors values [...] in 0..1 by a matplotlib colormap: uint8 [..., 3]."""
    import matplotlib  # takes a moment, which a task without pictures should not wait for

    return matplotlib.colormaps[colors](np.asarray(values), bytes=True)[..., :3]


def overlay(frames, values, colors: str, most: float = 0.8) -> np.ndarray:
    """Blends frames uint8 [..., H, W, 3] with the colors of values [..., H, W] in 0..1; the opacity is `most` times the value."""
    opacity = most * np.asarray(values, np.float32)[..., None]
    mixed = (1 - opacity) * np.asarray(frames, np.float32) + opacity * color(values, colors)
    return np.round(mixed).astype(np.uint8)
