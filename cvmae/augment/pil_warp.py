"""PIL's affine changes of place, on all frames of a clip: uint8 [T, H, W, 3] -> uint8 [T, H, W, 3].

Each pixel of the result is taken from a place in the frame, between pixels by interpolation; a place outside the frame gives the
fill colour, and pixels beyond the border repeat the border. Places are float32 here and double precision in PIL, which cuts results
to whole numbers: they are 1 level apart in about 1 of 10,000 values, and in up to 6 % where the strength is a round number,
so that many exact results are whole.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

INTERPOLATIONS = ("bilinear", "bicubic")


def _taps(interpolation: str) -> tuple[int, ...]:
    """The pixels that a place between pixel 0 and pixel 1 is made of."""
    return (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)


def _between(values, share):
    """The value at `share` (0..1) of the way between the middle two of 2 (bilinear) or 4 (bicubic, a = -1) float32 values."""
    if len(values) == 2:
        left, right = values
        return left + share * (right - left)
    a, b, c, d = values
    return b + share * (c - a + share * (2 * (a - b) + c - d + share * (b - a - c + d)))


def _to_uint8(values):
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def shift_rows(video, offsets, fill, interpolation: str):
    """Moves each row on its own: pixel x of row y becomes what was at x + offsets[y].

    Args:
      video: uint8 [T, H, W, 3].
      offsets: float32 [H], pixels; positive moves to the left.
      fill: the colour of what comes from outside, three values in 0..255.
      interpolation: one of INTERPOLATIONS.
    """
    width, taps = video.shape[2], _taps(interpolation)
    whole = jnp.floor(offsets)
    share = (offsets - whole)[None, :, None, None]
    # A row may be moved out of the frame altogether; then any pixels do, for all are filled.
    start = jnp.clip(whole, -width - 1, width).astype(jnp.int32)
    margin = (width + 2, width + 2)
    wide = jnp.pad(video, ((0, 0), (0, 0), margin, (0, 0)), mode="edge")

    def row(pixels, first):
        return jax.lax.dynamic_slice_in_dim(pixels, first + margin[0] + taps[0], width + len(taps) - 1, axis=1)

    near = jax.vmap(row, (1, 0), 1)(wide, start).astype(jnp.float32)
    moved = _between([near[:, :, k : k + width] for k in range(len(taps))], share)
    source = jnp.arange(width) + 0.5 + offsets[:, None]
    inside = (source >= 0) & (source < width)
    return jnp.where(inside[..., None], _to_uint8(moved), jnp.asarray(fill, jnp.uint8))


def shift_columns(video, offsets, fill, interpolation: str):
    """Moves each column on its own, as `shift_rows` moves rows; offsets: float32 [W], positive moves up."""
    turned = shift_rows(rearrange(video, "t h w c -> t w h c"), offsets, fill, interpolation)
    return rearrange(turned, "t w h c -> t h w c")


def shear_x(video, factor, fill, interpolation="bicubic"):
    """Image.transform with (1, factor, 0, 0, 1, 0): row y moves by factor * y."""
    return shift_rows(video, factor * (jnp.arange(video.shape[1]) + 0.5), fill, interpolation)


def shear_y(video, factor, fill, interpolation="bicubic"):
    """Image.transform with (1, 0, 0, factor, 1, 0): column x moves by factor * x."""
    return shift_columns(video, factor * (jnp.arange(video.shape[2]) + 0.5), fill, interpolation)


def translate_x(video, pixels, fill, interpolation="bicubic"):
    """Image.transform with (1, 0, pixels, 0, 1, 0)."""
    return shift_rows(video, jnp.full(video.shape[1], pixels, jnp.float32), fill, interpolation)


def translate_y(video, pixels, fill, interpolation="bicubic"):
    """Image.transform with (1, 0, 0, 0, 1, pixels)."""
    return shift_columns(video, jnp.full(video.shape[2], pixels, jnp.float32), fill, interpolation)


def rotate(video, degrees, fill, interpolation="bicubic"):
    """Image.rotate: counter-clockwise around the middle, without enlarging the frame."""
    count, height, width, _ = video.shape
    angle = -jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x = (jnp.arange(width) + (0.5 - width / 2))[None, :]
    y = (jnp.arange(height) + (0.5 - height / 2))[:, None]
    column, row = cos * x + sin * y + width / 2, cos * y - sin * x + height / 2
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    left, top = jnp.floor(column - 0.5), jnp.floor(row - 0.5)
    right_share, down_share = (column - 0.5 - left).reshape(-1, 1), (row - 0.5 - top).reshape(-1, 1)
    # All frames move alike, so each place is read once, with the pixels of all frames beside one another.
    pixels = rearrange(video, "t h w c -> (h w) (t c)")

    def at(down, right):
        index = jnp.clip(top + down, 0, height - 1) * width + jnp.clip(left + right, 0, width - 1)
        return pixels[index.astype(jnp.int32).reshape(-1)].astype(jnp.float32)

    taps = _taps(interpolation)
    rows = [_between([at(down, right) for right in taps], right_share) for down in taps]
    moved = rearrange(_to_uint8(_between(rows, down_share)), "(h w) (t c) -> t h w c", h=height, t=count)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, jnp.uint8))
