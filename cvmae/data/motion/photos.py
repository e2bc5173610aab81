"""The photographs that `motion` is cut from: files inside the wheels of scikit-image and scikit-learn, no download."""

from __future__ import annotations

import functools
import importlib.util
import pathlib

import cv2
import numpy as np

# One photograph serves one split only, whether as an object or as a background. Pictures of one kind stay together.
PHOTOGRAPHS = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "coffee.png",
        "coins.png",
        "flower.jpg",
        "grass.png",
        "ihc.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "test": ("cell.png", "chelsea.png", "china.jpg", "gravel.png", "hubble_deep_field.jpg", "moon.png"),
}

_FOLDERS = (("skimage", "data"), ("sklearn", "datasets/images"))
_LONGEST = 512  # pixels; larger photographs are shrunk once, since crops of them are shrunk much further anyway


def find(name: str) -> pathlib.Path:
    """The path of a bundled photograph. Raises FileNotFoundError when no installed package holds it."""
    for package, folder in _FOLDERS:
        # find_spec does not run the package: importing scikit-image in every worker would cost more than rendering.
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            path = pathlib.Path(root, folder, name)
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"photograph {name!r} is in neither scikit-image nor scikit-learn as installed here; "
        "`pip install --force-reinstall scikit-image scikit-learn` restores it"
    )


@functools.cache
def load(name: str) -> np.ndarray:
    """A photograph as uint8 [H, W, 3] (RGB; grey ones repeated), at most 512 pixels long. Do not write into it."""
    path = find(name)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f"cannot decode the photograph {path}")
    scale = min(1.0, _LONGEST / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(image[:, :, ::-1])
    image.setflags(write=False)
    return image


def crop(rng: np.random.Generator, name: str, side: int, extent: tuple[float, float]) -> np.ndarray:
    """A random square of a photograph, perhaps mirrored and tinted.

    Args:
      rng: source of randomness.
      name: one of PHOTOGRAPHS.
      side: output side in pixels.
      extent: range of the square's side, as a share of the photograph's shorter side.

    Returns:
      float32 [side, side, 3], 0..255.
    """
    image = load(name)
    height, width = image.shape[:2]
    size = max(8, int(min(height, width) * rng.uniform(*extent)))
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    patch = image[top : top + size, left : left + size]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    method = cv2.INTER_AREA if size >= side else cv2.INTER_LINEAR
    patch = cv2.resize(np.ascontiguousarray(patch), (side, side), interpolation=method).astype(np.float32)
    return np.clip(patch * rng.uniform(0.75, 1.25, 3).astype(np.float32), 0, 255)
