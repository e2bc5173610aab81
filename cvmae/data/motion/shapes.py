"""Soft-edged masks of the cut-outs. An outline lies inside the disc of radius 1, or (`cover`) contains it."""

from __future__ import annotations

import cv2
import numpy as np

_ANY = ("disc", "oval", "polygon", "star", "ring", "square", "blob")
_LONG = ("oval", "bar", "triangle", "star")  # their direction is visible, and so is a turn
_MARGIN = 1.06  # side of the sprite in diameters of the unit disc, for the soft edge


def mask(rng: np.random.Generator, mask_kind: str, side: int) -> np.ndarray:
    """Returns the mask of a random outline.

    Args:
      rng: source of randomness.
      mask_kind: "any", "long" (its direction is visible) or "cover" (contains the unit disc).
      side: pixels; the unit disc nearly fills them.

    Returns:
      float32 [side, side] in 0..1, 1 inside.
    """
    outline = "superellipse" if mask_kind == "cover" else str(rng.choice(_LONG if mask_kind == "long" else _ANY))
    points, hole = _outline(rng, outline)
    large = 4 * side
    scale = large / 2 / (_MARGIN * max(1.0, np.abs(points).max()))
    canvas = np.zeros((large, large), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * scale + large / 2).astype(np.int32)], 255)
    if hole:
        cv2.circle(canvas, (large // 2, large // 2), int(hole * scale), 0, -1)
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32) / 255


def _outline(rng, name: str) -> tuple[np.ndarray, float]:
    """Returns the points of a named outline, float [N, 2] in units of the radius, and the radius of its hole (0 = none)."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    if name in ("disc", "ring"):
        return circle, rng.uniform(0.35, 0.5) if name == "ring" else 0.0
    if name == "oval":
        return circle * (1, rng.uniform(0.5, 0.7)), 0.0
    if name == "superellipse":
        return circle / (np.abs(circle) ** 4).sum(-1, keepdims=True) ** 0.25, 0.0
    if name == "blob":
        waves = sum(rng.uniform(-0.16, 0.16) * np.cos(k * turn + rng.uniform(0, 6.28)) for k in (2, 3, 5))
        return circle * ((1 + waves) / (1 + waves).max())[:, None], 0.0
    if name == "bar":
        length, width = 0.92, rng.uniform(0.3, 0.4)
        return np.array([(-length, -width), (length, -width), (length, width), (-length, width)]), 0.0
    if name == "star":
        corners = int(rng.integers(4, 7))
        radius = np.where(np.arange(2 * corners) % 2, rng.uniform(0.45, 0.6), 1.0)
    else:
        corners = {"triangle": 3, "square": 4}.get(name) or int(rng.integers(3, 8))
        radius = np.ones(corners)
    turn = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], -1) * radius[:, None], 0.0
