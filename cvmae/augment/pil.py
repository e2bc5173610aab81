"""Image operations of PIL on all frames of a clip: uint8 [T, H, W, 3] -> uint8 [T, H, W, 3].

Whatever PIL computes from the image (histogram, extremes, mean) is computed from each frame on its own. The results are PIL's
bit for bit, with two exceptions: `autocontrast`, and, where a compiler fuses the product and the sum of `_blend`, about one in
2,000 values of `color`, `contrast` and `sharpness`, which are one level lower. Strengths are scalars, traced or not.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float, UInt8

Clip = UInt8[Array, "T H W 3"]
Fill = Sequence[int]  # red, green, blue, 0..255

# PIL's weights of R, G and B in a gray value, in 1/65536.
_GRAY = (19595, 38470, 7471)


def invert(video: Clip) -> Clip:
    """ImageOps.invert."""
    return 255 - video


def solarize(video: Clip, threshold) -> Clip:
    """ImageOps.solarize: inverts values of at least `threshold`; 256 changes nothing."""
    return jnp.where(video.astype(jnp.int32) < threshold, video, 255 - video)


def solarize_add(video: Clip, add) -> Clip:
    """Adds `add`, an integer of at least 0, to values below 128, clipped at 255 (timm's SolarizeAdd)."""
    values = video.astype(jnp.int32)
    return jnp.where(values < 128, jnp.minimum(values + add, 255), values).astype(jnp.uint8)


def posterize(video: Clip, bits) -> Clip:
    """ImageOps.posterize: keeps the upper `bits` bits, 0..8. 0 bits leave black, for which newer releases of PIL raise."""
    mask = jnp.left_shift(255, 8 - jnp.asarray(bits, jnp.int32)) & 255
    return video & mask.astype(jnp.uint8)


def autocontrast(video: Clip) -> Clip:
    """ImageOps.autocontrast: stretches each channel of each frame to 0..255; a channel of one value stays.

    PIL computes in double precision and truncates, so it sometimes ends one level below an exact integer result. This gives the
    exact result: 1 level apart for 0.4 % of all combinations of darkest, brightest and own value, at most.
    """
    values = video.astype(jnp.float32)
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    # Integers in float32: the quotient is an integer or at least 1/255 below the next one.
    stretched = jnp.floor((values - low) * 255 / jnp.maximum(high - low, 1) + 1 / 512)
    return jnp.where(high > low, stretched, values).astype(jnp.uint8)


def _histogram(values):
    """Counts the values of each channel: uint8 [N, 3] -> int32 [3, 256]."""
    # As a product of one-hot halves of the bytes: a scatter is sequential on most accelerators, and 256 comparisons of each
    # value would be eight times the work. Exact up to 2**24, also in the matrix products of a TPU.
    high, low = (jax.nn.one_hot(half, 16) for half in (values >> 4, values & 15))
    return rearrange(jnp.einsum("nch,ncl->chl", high, low), "c h l -> c (h l)").astype(jnp.int32)


def _equalizing_table(counts):
    """ImageOps.equalize's table of one channel, int32 [256], from its histogram, int32 [256]."""
    brightest = 255 - jnp.argmax(counts[::-1] > 0)
    step = (counts.sum() - counts[brightest]) // 255
    before = jnp.cumsum(counts) - counts
    table = (step // 2 + before) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))


def equalize(video: Clip) -> Clip:
    """ImageOps.equalize: evens the histogram of each channel of each frame."""

    def one_frame(frame):
        tables = jax.vmap(_equalizing_table)(_histogram(rearrange(frame, "h w c -> (h w) c"))).astype(jnp.uint8)
        return tables[jnp.arange(3), frame.astype(jnp.int32)]

    return jax.lax.map(one_frame, video)


def _blend(degenerate, video, factor):
    """Image.blend: degenerate + factor * (video - degenerate), clipped to 0..255 and truncated to integers."""
    start = degenerate.astype(jnp.float32)
    mixed = start + factor * (video.astype(jnp.float32) - start)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def _gray(video):
    """convert("L"): int32 [..., H, W, 1]."""
    return ((video.astype(jnp.int32) * jnp.asarray(_GRAY)).sum(-1, keepdims=True) + 0x8000) >> 16


def brightness(video: Clip, factor) -> Clip:
    """ImageEnhance.Brightness: black at 0, the frame at 1."""
    return _blend(jnp.zeros((), jnp.uint8), video, factor)


def color(video: Clip, factor) -> Clip:
    """ImageEnhance.Color: gray at 0, the frame at 1."""
    return _blend(_gray(video), video, factor)


def contrast(video: Clip, factor) -> Clip:
    """ImageEnhance.Contrast: the mean gray value of each frame at 0, the frame at 1. Frames of up to 4 million pixels."""
    gray = _gray(video)
    pixels = gray.shape[1] * gray.shape[2]
    total = gray.sum((1, 2), keepdims=True)
    mean = total // pixels + (total % pixels * 2 >= pixels)
    return _blend(mean, video, factor)


def sharpness(video: Clip, factor) -> Clip:
    """ImageEnhance.Sharpness: smoothed at 0, the frame at 1, sharpened above; the outermost pixels stay as they are."""
    values = video.astype(jnp.int32)
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values[:, 1:-1, 1:-1]
    smooth = (2 * sums + 13) // 26  # sums / 13, rounded; 13 is odd, so nothing lies halfway
    return _blend(values.at[:, 1:-1, 1:-1].set(smooth), video, factor)


INTERPOLATIONS = ("bilinear", "bicubic")


def _taps(interpolation: str) -> tuple[int, ...]:
    """Indices of the pixels from which a point between pixel 0 and pixel 1 is interpolated."""
    return (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)


def _interpolate(values, t):
    """Interpolates between the middle two of 2 (bilinear) or 4 (bicubic, a = -1) float32 values, at `t` in 0..1."""
    if len(values) == 2:
        left, right = values
        return left + t * (right - left)
    a, b, c, d = values
    return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a - c + d)))


def _to_uint8(values):
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def shift_rows(video: Clip, offsets: Float[Array, " H"], fill: Fill, interpolation: str) -> Clip:
    """Shifts each row on its own: pixel x of row y becomes the interpolated pixel at x + offsets[y].

    Args:
      video: uint8 [T, H, W, 3].
      offsets: float32 [H], pixels; positive moves to the left.
      fill: color of pixels from outside the frame, three values in 0..255.
      interpolation: one of INTERPOLATIONS.
    """
    width, taps = video.shape[2], _taps(interpolation)
    floors = jnp.floor(offsets)
    t = (offsets - floors)[None, :, None, None]
    # A row may leave the frame altogether; then any pixels will do, because all are filled.
    start = jnp.clip(floors, -width - 1, width).astype(jnp.int32)
    margin = (width + 2, width + 2)
    padded = jnp.pad(video, ((0, 0), (0, 0), margin, (0, 0)), mode="edge")

    def row(pixels, first):
        return jax.lax.dynamic_slice_in_dim(pixels, first + margin[0] + taps[0], width + len(taps) - 1, axis=1)

    near = jax.vmap(row, (1, 0), 1)(padded, start).astype(jnp.float32)
    moved = _interpolate([near[:, :, k : k + width] for k in range(len(taps))], t)
    source = jnp.arange(width) + 0.5 + offsets[:, None]
    inside = (source >= 0) & (source < width)
    return jnp.where(inside[..., None], _to_uint8(moved), jnp.asarray(fill, jnp.uint8))


def shift_columns(video: Clip, offsets: Float[Array, " W"], fill: Fill, interpolation: str) -> Clip:
    """Shifts each column on its own, as `shift_rows` does rows; offsets: float32 [W], positive moves up."""
    turned = shift_rows(rearrange(video, "t h w c -> t w h c"), offsets, fill, interpolation)
    return rearrange(turned, "t w h c -> t h w c")


def shear_x(video: Clip, factor, fill: Fill, interpolation: str = "bicubic") -> Clip:
    """Image.transform with (1, factor, 0, 0, 1, 0): row y moves by factor * y."""
    return shift_rows(video, factor * (jnp.arange(video.shape[1]) + 0.5), fill, interpolation)


def shear_y(video: Clip, factor, fill: Fill, interpolation: str = "bicubic") -> Clip:
    """Image.transform with (1, 0, 0, factor, 1, 0): column x moves by factor * x."""
    return shift_columns(video, factor * (jnp.arange(video.shape[2]) + 0.5), fill, interpolation)


def translate_x(video: Clip, pixels, fill: Fill, interpolation: str = "bicubic") -> Clip:
    """Image.transform with (1, 0, pixels, 0, 1, 0)."""
    return shift_rows(video, jnp.full(video.shape[1], pixels, jnp.float32), fill, interpolation)


def translate_y(video: Clip, pixels, fill: Fill, interpolation: str = "bicubic") -> Clip:
    """Image.transform with (1, 0, 0, 0, 1, pixels)."""
    return shift_columns(video, jnp.full(video.shape[2], pixels, jnp.float32), fill, interpolation)


def rotate(video: Clip, degrees, fill: Fill, interpolation: str = "bicubic") -> Clip:
    """Image.rotate: counter-clockwise around the center, without enlarging the frame."""
    count, height, width, _ = video.shape
    angle = -jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x = (jnp.arange(width) + (0.5 - width / 2))[None, :]
    y = (jnp.arange(height) + (0.5 - height / 2))[:, None]
    column, row = cos * x + sin * y + width / 2, cos * y - sin * x + height / 2
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    left, top = jnp.floor(column - 0.5), jnp.floor(row - 0.5)
    right_t, down_t = (column - 0.5 - left).reshape(-1, 1), (row - 0.5 - top).reshape(-1, 1)
    # All frames rotate alike, so each pixel is gathered once, with the values of all frames side by side.
    pixels = rearrange(video, "t h w c -> (h w) (t c)")

    def at(down, right):
        index = jnp.clip(top + down, 0, height - 1) * width + jnp.clip(left + right, 0, width - 1)
        return pixels[index.astype(jnp.int32).reshape(-1)].astype(jnp.float32)

    taps = _taps(interpolation)
    rows = [_interpolate([at(down, right) for right in taps], right_t) for down in taps]
    moved = rearrange(_to_uint8(_interpolate(rows, down_t)), "(h w) (t c) -> t h w c", h=height, t=count)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, jnp.uint8))
