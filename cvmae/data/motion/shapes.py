"""Outlines of the cut-outs, as soft-edged masks. An outline lies inside the disc of radius 1, or (`cover`) around it."""

from __future__ import annotations

import cv2
import numpy as np

_ANY = ("disc", "oval", "polygon", "star", "ring", "square", "blob")
_LONG = ("oval", "bar", "triangle", "star")  # their direction can be seen, so that a turn can be
_MARGIN = 1.06  # of the sprite around the unit disc: room for the soft edge


def mask(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    """A random outline filled with ones.

    Args:
      rng: source of randomness.
      kind: "any", "long" (its direction shows) or "cover" (holds the whole unit disc).
      side: pixels; the unit disc nearly fills it.

    Returns:
      float32 [side, side], 0..1.
    """
    outline = "superellipse" if kind == "cover" else str(rng.choice(_LONG if kind == "long" else _ANY))
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
    """The points [N, 2] of a named outline in units of the radius, and the radius of its hole (0 = none)."""
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
