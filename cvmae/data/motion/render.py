"""Renders scenes to frames. A clip depends only on (size, seed, split, index, label)."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from cvmae.data.motion import scenes
from cvmae.data.motion.spec import Size, pair_of


def clip(size: Size, split: str, index: int, label: str, seed: int) -> tuple[np.ndarray, dict[str, str | float]]:
    """Renders a clip.

    With otherwise equal arguments, the two labels of a pair give the same frames in opposite order.

    Args:
      size: parameters.
      split: "train" or "test", which selects the photographs.
      index: number of the clip in its split.
      label: class name.
      seed: of the set.

    Returns:
      Frames, uint8 [T, side, side, 3], and the parameters of the clip, as they are in its order of frames (drift_x > 0 is a
      drift to the right in both classes of a pair).

    Raises:
      ValueError: unknown label.
    """
    pair, backwards = pair_of(label)
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    scene = scenes.draw(rng, size, pair, split)
    frames, facts = frames_of(rng, scene, size.side), dict(scene.facts)
    if backwards:
        frames = frames[::-1]
        facts |= {key: -float(facts[key]) for key in scenes.TIME_ODD}
    return np.ascontiguousarray(frames), facts


def frames_of(rng: np.random.Generator, scene: scenes.Scene, side: int) -> np.ndarray:
    """Renders a scene as uint8 [T, side, side, 3]; the sensor noise is drawn from `rng`."""
    # Rendered at twice the resolution and averaged: tracks move by fractions of a pixel, and edges must not flicker.
    pixels = 2 * side
    frames = np.empty((len(scene.gain), side, side, 3), np.float32)
    margin = (scene.background.shape[0] - pixels) / 2
    for t in range(len(frames)):
        shift = scene.shake[t] * pixels
        x, y = scene.drift[t] * pixels + shift - margin
        canvas = cv2.warpAffine(
            scene.background,
            np.array([[1, 0, x], [0, 1, y]]),
            (pixels, pixels),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        for layer in scene.layers:
            _paste(canvas, layer.sprite, layer.track[t], shift)
        frames[t] = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    frames *= scene.gain[:, None, None, None].astype(np.float32)
    frames += scene.noise * rng.standard_normal(frames.shape, np.float32)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _paste(canvas: np.ndarray, sprite: np.ndarray, pose: np.ndarray, shift: np.ndarray) -> None:
    """Blends a sprite into the canvas, in place; `pose` is (x, y, radius, angle), see Layer; `shift` is in pixels."""
    pixels, side = canvas.shape[0], sprite.shape[0]
    x, y, radius, angle = pose
    scale = 2 * radius * pixels / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
    # In coordinates of pixel centers, the sprite's center is (side - 1) / 2, and the fraction x of the frame x * pixels - 1 / 2.
    matrix[:, 2] = np.array([x, y]) * pixels - 0.5 + shift - matrix[:, :2] @ np.full(2, (side - 1) / 2)
    layer = cv2.warpAffine(sprite, matrix, (pixels, pixels), flags=cv2.INTER_LINEAR)
    canvas *= 1 - layer[..., 3:]
    canvas += layer[..., :3]
