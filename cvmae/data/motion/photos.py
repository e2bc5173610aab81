"""Photographs from which `motion` is made: files inside the wheels of scikit-image and scikit-learn, without a download."""

from __future__ import annotations

import functools
import importlib.util
import pathlib

import cv2
import numpy as np

# Each photograph is in one split only, as an object and as a background. Similar photographs are in the same split.
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
_LONGEST = 512  # pixels; larger photographs are shrunk once, since their crops are shrunk much further


def find(name: str) -> pathlib.Path:
    """Returns the path of a bundled photograph. Raises: FileNotFoundError if no installed package has it."""
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
    """Returns a photograph as read-only uint8 [H, W, 3] (RGB; gray ones repeated), with sides of at most 512 pixels.

    Raises: FileNotFoundError if no installed package has it; OSError if it cannot be decoded.
    """
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
    """Returns a random square of a photograph, mirrored with probability 0.5 and randomly tinted.

    Args:
      rng: source of randomness.
      name: one of PHOTOGRAPHS.
      side: output side in pixels.
      extent: (low, high) of the square's side, as a fraction of the photograph's shorter side.

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
