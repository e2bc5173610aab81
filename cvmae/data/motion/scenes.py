"""Draws the scene of a clip: cut-outs, background and tracks.

Every function here draws the *forward* class of a pair. The other class has the rendered frames in reverse order, so all
parameters have the same distribution in both. Those that could still reveal the direction of time (easing, drift, change
of gain) have distributions that are symmetric under time reversal.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cvmae.data.motion import photos, shapes
from cvmae.data.motion.spec import Size

# Parameters that change sign when the frames are reversed.
TIME_ODD = ("easing", "drift_x", "drift_y", "gain_slope", "distractor_dx", "distractor_dy")


@dataclasses.dataclass
class Layer:
    """A cut-out and its track.

    Attributes:
      sprite: float32 [S, S, 4], premultiplied RGB in 0..255 and alpha in 0..1.
      track: float [T, 4]: x, y of the center and the radius as fractions of the frame's side; the angle in radians,
        clockwise on the screen.
    """

    sprite: np.ndarray
    track: np.ndarray


@dataclasses.dataclass
class Scene:
    """Description of a clip before rendering.

    Attributes:
      background: float32 [S, S, 3] in 0..255, for the frame and a margin around it.
      layers: cut-outs from back to front.
      drift: float [T, 2], shift of the background as a fraction of the frame's side.
      shake: float [T, 2], shift of the camera as a fraction of the frame's side.
      gain: float [T], factor of the brightness.
      noise: standard deviation in levels of 0..255.
      facts: the parameters for the manifest.
    """

    background: np.ndarray
    layers: list[Layer]
    drift: np.ndarray
    shake: np.ndarray
    gain: np.ndarray
    noise: float
    facts: dict[str, str | float]


def draw(rng: np.random.Generator, size: Size, pair: str, split: str) -> Scene:
    """Draws a random scene of the forward class of `pair` with photographs of `split`."""
    names = [str(n) for n in rng.permutation(photos.PHOTOGRAPHS[split])[:4]]
    pixels = 2 * size.side  # drawn at twice the resolution, see render
    background = photos.crop(rng, names[0], int(pixels * BACKGROUND_EXTENT), (0.5, 1.0))
    easing = rng.choice((-1, 1)) * rng.uniform(0, 0.5)
    progress = ease(size.num_frames, easing)
    amount = rng.uniform()
    center = 0.5 + rng.uniform(-size.offset, size.offset, 2)
    radius = rng.uniform(*size.radius)
    tracks, mask_kinds = _PAIR_TRACKS[pair](rng, size, progress, amount, center, radius)
    layers = []
    for track, mask_kind, name in zip(tracks, mask_kinds, names[1:]):
        layers.append(Layer(_cut_out(rng, name, mask_kind, track, pixels, background), track))
    facts = {
        "photograph": names[1],
        "background": names[0],
        "amount": amount,
        "x": center[0],
        "y": center[1],
        "radius": radius,
        "easing": easing,
    }
    distractor = rng.random() < size.distractor_share
    layer, step = _distractor(rng, size, names[3], progress, pixels, background)
    if distractor:
        layers.insert(0, layer)
    steady = np.linspace(-0.5, 0.5, size.num_frames)
    drift, slope = rng.uniform(-size.drift, size.drift, 2), rng.uniform(-size.gain_slope, size.gain_slope)
    gain, noise = rng.uniform(*size.gain), rng.uniform(*size.noise)
    facts |= {
        "distractor": float(distractor),
        "distractor_dx": distractor * step[0],
        "distractor_dy": distractor * step[1],
        "drift_x": drift[0],
        "drift_y": drift[1],
        "gain": gain,
        "gain_slope": slope,
        "noise": noise,
    }
    return Scene(
        background,
        layers,
        drift=steady[:, None] * drift,
        gain=gain + slope * steady,
        noise=noise,
        facts=facts,
        shake=size.shake * rng.standard_normal((size.num_frames, 2)),
    )


# Side of the background in sides of the frame, so that drift and shake uncover no border.
BACKGROUND_EXTENT = 1.3


def ease(num_frames: int, easing: float) -> np.ndarray:
    """Returns the progress from -0.5 to 0.5, float [T]: for easing > 0 fast at first, for < 0 fast at last, for 0 uniform.

    Reversed in time, it is the negative progress of `-easing`: `ease(T, e)[::-1] == -ease(T, -e)`.
    """
    time = np.linspace(0, 1, num_frames)
    power = np.exp(abs(easing))
    return (1 - (1 - time) ** power if easing > 0 else time**power) - 0.5


def _track(x, y, radius, angle, num_frames: int) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(v, float), (num_frames,)) for v in (x, y, radius, angle)], -1)


def _between(bounds: tuple[float, float], amount: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * amount


def _slide(axis: int):
    def tracks(rng, size, progress, amount, center, radius):
        path = center + np.zeros((size.num_frames, 2))
        path[:, axis] += _between(size.travel, amount) * progress
        path[:, 1 - axis] += rng.uniform(-size.wobble, size.wobble) * progress
        return [_track(path[:, 0], path[:, 1], radius, rng.uniform(0, 6.28), size.num_frames)], ["any"]

    return tracks


def _depth(rng, size, progress, amount, center, radius):
    grown = radius * _between((1.8, 2.8), amount) ** progress
    return [_track(center[0], center[1], grown, rng.uniform(0, 6.28), size.num_frames)], ["any"]


def _turn(rng, size, progress, amount, center, radius):
    angle = rng.uniform(0, 6.28) + _between((1.1, 2.4), amount) * progress
    return [_track(center[0], center[1], 1.2 * radius, angle, size.num_frames)], ["long"]


def _cover(rng, size, progress, amount, center, radius):
    """Returns tracks of an object and of a larger cut-out, which comes from any side and hides it in the last frame."""
    direction, cover = rng.uniform(0, 6.28), 1.15 * radius
    away = (radius + cover) * _between((1.0, 1.25), amount) * (0.5 - progress)
    # The object stands still, away from the cover's side, so that the cover too is inside the frame in the first frame.
    x, y = center - 0.5 * (radius + cover) * np.array([np.cos(direction), np.sin(direction)])
    still = _track(x, y, radius, rng.uniform(0, 6.28), size.num_frames)
    mover = _track(x + away * np.cos(direction), y + away * np.sin(direction), cover, rng.uniform(0, 6.28), size.num_frames)
    return [still, mover], ["any", "cover"]


def _gather(rng, size, progress, amount, center, radius):
    """Returns tracks of two cut-outs that move together along a line of any direction until they touch."""
    direction = rng.uniform(0, 6.28)
    radius = 0.8 * radius
    half = 0.9 * radius + 0.5 * _between((0.3, 0.5), amount) * (0.5 - progress)
    step = np.array([np.cos(direction), np.sin(direction)])
    return [
        _track(center[0] + s * half * step[0], center[1] + s * half * step[1], radius, rng.uniform(0, 6.28), size.num_frames)
        for s in (-1, 1)
    ], ["any", "any"]


_PAIR_TRACKS = {
    "horizontal": _slide(0),
    "vertical": _slide(1),
    "depth": _depth,
    "turn": _turn,
    "cover": _cover,
    "gather": _gather,
}


def _distractor(rng, size, name, progress, pixels, background):
    """Draws a smaller cut-out for behind the objects, which stands or slides a little; returns (layer, its travel [2])."""
    center, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.08, 0.13)
    direction, travel = rng.uniform(0, 6.28), size.distractor_travel * rng.uniform() * (rng.random() < 0.5)
    step = travel * np.array([np.cos(direction), np.sin(direction)])
    path = center + progress[:, None] * step
    track = _track(path[:, 0], path[:, 1], radius, rng.uniform(0, 6.28), size.num_frames)
    return Layer(_cut_out(rng, name, "any", track, pixels, background), track), step


def _cut_out(rng, name, mask_kind, track, pixels, background) -> np.ndarray:
    """Returns a sprite for a track: a crop of a photograph that differs from the background in brightness."""
    side = max(12, int(np.ceil(2 * track[:, 2].max() * pixels)))
    texture = photos.crop(rng, name, side, (0.2, 0.7))
    contrast = rng.uniform(45, 90)
    background_mean, texture_mean = background.mean(), texture.mean()
    sign = np.sign(texture_mean - background_mean) or 1.0
    if not 0 < background_mean + sign * contrast < 255:
        sign = -sign
    # At 32 pixels, a cut-out as bright as the background would be invisible, and so would its motion.
    if (texture_mean - background_mean) * sign < contrast:
        texture = np.clip(texture + (background_mean + sign * contrast - texture_mean), 0, 255)
    alpha = shapes.mask(rng, mask_kind, side)[..., None]
    return np.concatenate([texture * alpha, alpha], -1).astype(np.float32)
