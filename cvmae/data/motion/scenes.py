"""Draws one clip's scene: which cut-outs, over which background, on which tracks.

Every function here draws the *forward* class of a pair. The other class is the rendered frames backwards, so whatever
is drawn here is distributed the same under both; what would still tell the direction of time (easing, drift, change of
gain) is drawn symmetrically, as likely one way as the other.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cvmae.data.motion import photos, shapes
from cvmae.data.motion.spec import Size

# Facts that change sign when the clip is shown backwards.
TIME_ODD = ("easing", "drift_x", "drift_y", "gain_slope", "distractor_dx", "distractor_dy")


@dataclasses.dataclass
class Layer:
    """A cut-out and its way: `sprite` float32 [S, S, 4] (premultiplied RGB 0..255, alpha 0..1); `track` float [T, 4]
    (x, y of the centre and the radius as fractions of the side; the angle in radians, clockwise on the screen)."""

    sprite: np.ndarray
    track: np.ndarray


@dataclasses.dataclass
class Scene:
    """A clip before rendering: layers from back to front, `drift` and `shake` float [T, 2], `gain` float [T]."""

    background: np.ndarray  # float32 [S, S, 3], covering the frame and a margin around it
    layers: list[Layer]
    drift: np.ndarray
    shake: np.ndarray
    gain: np.ndarray
    noise: float
    facts: dict[str, str | float]


def draw(rng: np.random.Generator, size: Size, pair: str, split: str) -> Scene:
    """A random scene of the forward class of `pair` from the photographs of `split`."""
    names = [str(n) for n in rng.permutation(photos.PHOTOGRAPHS[split])[:4]]
    pixels = 2 * size.side  # drawn at twice the resolution, see render
    background = photos.crop(rng, names[0], int(pixels * BACKGROUND_EXTENT), (0.5, 1.0))
    easing = rng.choice((-1, 1)) * rng.uniform(0, 0.5)
    progress = ease(size.num_frames, easing)
    amount = rng.uniform()
    centre = 0.5 + rng.uniform(-size.offset, size.offset, 2)
    radius = rng.uniform(*size.radius)
    tracks, kinds = _PAIR_TRACKS[pair](rng, size, progress, amount, centre, radius)
    layers = []
    for track, kind, name in zip(tracks, kinds, names[1:]):
        layers.append(Layer(_cut_out(rng, name, kind, track, pixels, background), track))
    facts = {
        "photograph": names[1],
        "background": names[0],
        "amount": amount,
        "x": centre[0],
        "y": centre[1],
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


# The background reaches this many frame sides, so that drift and shake uncover no border.
BACKGROUND_EXTENT = 1.3


def ease(num_frames: int, easing: float) -> np.ndarray:
    """Progress from -0.5 to 0.5, float [T]: fast at first for easing > 0, fast at last for < 0, even for 0.

    Backwards it is the progress of `-easing` with the sign changed: `ease(T, e)[::-1] == -ease(T, -e)`.
    """
    time = np.linspace(0, 1, num_frames)
    power = np.exp(abs(easing))
    return (1 - (1 - time) ** power if easing > 0 else time**power) - 0.5


def _track(x, y, radius, angle, num_frames: int) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(v, float), (num_frames,)) for v in (x, y, radius, angle)], -1)


def _between(bounds: tuple[float, float], amount: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * amount


def _slide(axis: int):
    def tracks(rng, size, progress, amount, centre, radius):
        way = centre + np.zeros((size.num_frames, 2))
        way[:, axis] += _between(size.travel, amount) * progress
        way[:, 1 - axis] += rng.uniform(-size.wobble, size.wobble) * progress
        return [_track(way[:, 0], way[:, 1], radius, rng.uniform(0, 6.28), size.num_frames)], ["any"]

    return tracks


def _depth(rng, size, progress, amount, centre, radius):
    grown = radius * _between((1.8, 2.8), amount) ** progress
    return [_track(centre[0], centre[1], grown, rng.uniform(0, 6.28), size.num_frames)], ["any"]


def _turn(rng, size, progress, amount, centre, radius):
    angle = rng.uniform(0, 6.28) + _between((1.1, 2.4), amount) * progress
    return [_track(centre[0], centre[1], 1.2 * radius, angle, size.num_frames)], ["long"]


def _cover(rng, size, progress, amount, centre, radius):
    """A larger cut-out comes from any side and hides the object wholly in the last frame."""
    direction, cover = rng.uniform(0, 6.28), 1.15 * radius
    away = (radius + cover) * _between((1.0, 1.25), amount) * (0.5 - progress)
    # The object stays, moved against the cover's side, so that the cover too is inside the frame when it lies apart.
    x, y = centre - 0.5 * (radius + cover) * np.array([np.cos(direction), np.sin(direction)])
    still = _track(x, y, radius, rng.uniform(0, 6.28), size.num_frames)
    mover = _track(x + away * np.cos(direction), y + away * np.sin(direction), cover, rng.uniform(0, 6.28), size.num_frames)
    return [still, mover], ["any", "cover"]


def _gather(rng, size, progress, amount, centre, radius):
    """Two cut-outs come together along a line of any direction until they touch."""
    direction = rng.uniform(0, 6.28)
    radius = 0.8 * radius
    half = 0.9 * radius + 0.5 * _between((0.3, 0.5), amount) * (0.5 - progress)
    step = np.array([np.cos(direction), np.sin(direction)])
    return [
        _track(centre[0] + s * half * step[0], centre[1] + s * half * step[1], radius, rng.uniform(0, 6.28), size.num_frames)
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
    """A smaller cut-out behind the objects, standing or sliding a little any way; returns (layer, its travel [2])."""
    centre, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.08, 0.13)
    direction, travel = rng.uniform(0, 6.28), size.distractor_travel * rng.uniform() * (rng.random() < 0.5)
    step = travel * np.array([np.cos(direction), np.sin(direction)])
    way = centre + progress[:, None] * step
    track = _track(way[:, 0], way[:, 1], radius, rng.uniform(0, 6.28), size.num_frames)
    return Layer(_cut_out(rng, name, "any", track, pixels, background), track), step


def _cut_out(rng, name, kind, track, pixels, background) -> np.ndarray:
    """A sprite for a track: the photograph's texture, told apart from the background in brightness."""
    side = max(12, int(np.ceil(2 * track[:, 2].max() * pixels)))
    texture = photos.crop(rng, name, side, (0.2, 0.7))
    contrast = rng.uniform(45, 90)
    behind, own = background.mean(), texture.mean()
    sign = np.sign(own - behind) or 1.0
    if not 0 < behind + sign * contrast < 255:
        sign = -sign
    # A cut-out of the background's own brightness would be lost at 32 pixels, and its motion with it.
    if (own - behind) * sign < contrast:
        texture = np.clip(texture + (behind + sign * contrast - own), 0, 255)
    alpha = shapes.mask(rng, kind, side)[..., None]
    return np.concatenate([texture * alpha, alpha], -1).astype(np.float32)
