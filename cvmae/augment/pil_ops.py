"""PIL's changes of colour, on all frames of a clip: uint8 [T, H, W, 3] -> uint8 [T, H, W, 3].

Everything that PIL takes from the image (histogram, extremes, mean) is taken from each frame on its own. The results are PIL's
bit for bit, but for `autocontrast` and, where a compiler fuses the product and the sum of `_blend`, for about one in 2,000 values of
`color`, `contrast` and `sharpness`, which are one level below. Strengths are scalars, traced or not.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

# PIL's weights of R, G and B in a grey value, in 1/65536.
_GREY = (19595, 38470, 7471)


def invert(video):
    """ImageOps.invert."""
    return 255 - video


def solarize(video, threshold):
    """ImageOps.solarize: inverts values from `threshold` on; 256 changes nothing."""
    return jnp.where(video.astype(jnp.int32) < threshold, video, 255 - video)


def solarize_add(video, add):
    """Adds `add`, an integer of 0 or more, to values below 128, at most up to 255 (timm's SolarizeAdd)."""
    values = video.astype(jnp.int32)
    return jnp.where(values < 128, jnp.minimum(values + add, 255), values).astype(jnp.uint8)


def posterize(video, bits):
    """ImageOps.posterize: keeps the upper `bits` bits, 0..8. No bits leave black, where PIL's newer releases raise."""
    mask = jnp.left_shift(255, 8 - jnp.asarray(bits, jnp.int32)) & 255
    return video & mask.astype(jnp.uint8)


def autocontrast(video):
    """ImageOps.autocontrast: stretches each channel of each frame to 0..255; a channel of one value stays.

    PIL computes in double precision and cuts, so where the exact result is a whole number it sometimes ends one below. This
    gives the exact one: 1 level apart for 0.4 % of all combinations of darkest, brightest and own value, never more.
    """
    values = video.astype(jnp.float32)
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    # Whole numbers of float32: the quotient is at least 1/255 below the next whole number or equal to it.
    stretched = jnp.floor((values - low) * 255 / jnp.maximum(high - low, 1) + 1 / 512)
    return jnp.where(high > low, stretched, values).astype(jnp.uint8)


def _histogram(values):
    """How often each value is there: uint8 [N, 3] -> int32 [3, 256]."""
    # As a product of one-hot halves of the bytes: a scatter would go value by value on most accelerators, and 256 comparisons
    # of each value would be eight times the work. Exact up to 2**24, also with the products of a TPU.
    high, low = (jax.nn.one_hot(half, 16) for half in (values >> 4, values & 15))
    return rearrange(jnp.einsum("nch,ncl->chl", high, low), "c h l -> c (h l)").astype(jnp.int32)


def _equalizing_table(counts):
    """ImageOps.equalize's table of one channel, int32 [256], from its histogram, int32 [256]."""
    brightest = 255 - jnp.argmax(counts[::-1] > 0)
    step = (counts.sum() - counts[brightest]) // 255
    before = jnp.cumsum(counts) - counts
    table = (step // 2 + before) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))


def equalize(video):
    """ImageOps.equalize: evens the histogram of each channel of each frame."""

    def one_frame(frame):
        tables = jax.vmap(_equalizing_table)(_histogram(rearrange(frame, "h w c -> (h w) c"))).astype(jnp.uint8)
        return tables[jnp.arange(3), frame.astype(jnp.int32)]

    return jax.lax.map(one_frame, video)


def _blend(degenerate, video, factor):
    """Image.blend: degenerate + factor * (video - degenerate), cut to 0..255 and to whole numbers towards 0."""
    start = degenerate.astype(jnp.float32)
    mixed = start + factor * (video.astype(jnp.float32) - start)
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def _grey(video):
    """convert("L"): int32 [..., H, W, 1]."""
    return ((video.astype(jnp.int32) * jnp.asarray(_GREY)).sum(-1, keepdims=True) + 0x8000) >> 16


def brightness(video, factor):
    """ImageEnhance.Brightness: black at 0, the frame at 1."""
    return _blend(jnp.zeros((), jnp.uint8), video, factor)


def color(video, factor):
    """ImageEnhance.Color: grey at 0, the frame at 1."""
    return _blend(_grey(video), video, factor)


def contrast(video, factor):
    """ImageEnhance.Contrast: the mean grey value of each frame at 0, the frame at 1. Frames of up to 4 million pixels."""
    grey = _grey(video)
    pixels = grey.shape[1] * grey.shape[2]
    total = grey.sum((1, 2), keepdims=True)
    mean = total // pixels + (total % pixels * 2 >= pixels)
    return _blend(mean, video, factor)


def sharpness(video, factor):
    """ImageEnhance.Sharpness: smoothed at 0, the frame at 1, sharpened above; the outermost pixels stay."""
    values = video.astype(jnp.int32)
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values[:, 1:-1, 1:-1]
    smooth = (2 * sums + 13) // 26  # sums / 13, rounded; 13 is odd, so nothing lies halfway
    return _blend(values.at[:, 1:-1, 1:-1].set(smooth), video, factor)
