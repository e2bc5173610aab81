"""From a number a patch to colors a pixel."""

import matplotlib
import numpy as np
from PIL import Image

ATTENTION_COLORS, SEMANTIC_COLORS = "inferno", "viridis"


def upsample(maps, size: tuple[int, int]) -> np.ndarray:
    """Maps [..., h, w] at `size` = (H, W) pixels, float32; row 0 stays at the top.

    Bicubic between the centers of patches, and nowhere beyond the least and greatest value there is.
    """
    maps = np.asarray(maps, np.float32)
    flat = maps.reshape(-1, *maps.shape[-2:])
    whole = [np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC)) for one in flat]
    return np.clip(np.stack(whole).reshape(*maps.shape[:-2], *size), maps.min(), maps.max())


def scaled(maps) -> np.ndarray:
    """Maps at 0..1 from their least to their greatest value; zeros where these are the same."""
    maps = np.asarray(maps, np.float32)
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low) if high > low else np.zeros_like(maps)


def color(values, colors: str) -> np.ndarray:
    """Values [...] in 0..1 as uint8 [..., 3] in a color map of matplotlib."""
    return matplotlib.colormaps[colors](np.asarray(values), bytes=True)[..., :3]


def overlay(frames, values, colors: str, most: float = 0.8) -> np.ndarray:
    """Frames uint8 [..., H, W, 3] under the colors of values [..., H, W] in 0..1, which hide the more the higher they are."""
    share = most * np.asarray(values, np.float32)[..., None]
    mixed = (1 - share) * np.asarray(frames, np.float32) + share * color(values, colors)
    return np.round(mixed).astype(np.uint8)
