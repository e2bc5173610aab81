"""Specification of `motion`: its classes, its two sizes, and the ranges from which clips are drawn.

Distances are fractions of the frame's side, angles are radians, brightness is in levels of 0..255.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

# Raise this when the same parameters give different frames or files than before: cached sets are then not used any more.
VERSION = 1

# Each pair has one generator: the first class is what it draws, the second has the same frames in reverse order.
PAIRS = {
    "horizontal": ("moving right", "moving left"),
    "vertical": ("moving down", "moving up"),
    "depth": ("coming closer", "going away"),
    "turn": ("turning clockwise", "turning counter-clockwise"),
    "cover": ("covering", "uncovering"),
    "gather": ("coming together", "moving apart"),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Parameters of a size of the set; `(low, high)` are the bounds of uniform distributions."""

    name: str
    pairs: tuple[str, ...]
    num_frames: int
    side: int  # pixels
    train_clips: int
    test_clips: int
    fps: int = 8
    radius: tuple[float, float] = (0.17, 0.25)  # of the object
    travel: tuple[float, float] = (0.35, 0.65)  # of the object, from the first to the last frame
    offset: float = 0.13  # largest distance of the middle of the object's path from the frame's center, on each axis
    wobble: float = 0.05  # travel across the direction that names the class
    distractor_share: float = 0.5  # of the clips
    distractor_travel: float = 0.15
    drift: float = 0.05  # travel of the background, each axis
    shake: float = 0.0  # standard deviation of the camera's position, each frame and axis
    gain: tuple[float, float] = (0.75, 1.2)
    gain_slope: float = 0.1  # change of the gain over the clip
    noise: tuple[float, float] = (0.0, 4.0)  # levels, standard deviation
    quantizer: int = 14  # constant H.264 quantizer

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in sorted order; the index is the integer label that a reader of the manifest uses."""
        return tuple(sorted(name for pair in self.pairs for name in PAIRS[pair]))


SIZES = {
    "easy": Size("easy", ("horizontal", "vertical"), num_frames=8, side=32, train_clips=8000, test_clips=800),
    "full": Size(
        "full",
        tuple(PAIRS),
        num_frames=16,
        side=64,
        train_clips=12000,
        test_clips=1200,
        distractor_travel=0.3,
        drift=0.1,
        shake=0.004,
    ),
}

# Mirrored clips belong to other classes: left becomes right, clockwise counter-clockwise. A horizontal flip is harmless in
# self-supervised training, where all views of a clip are flipped together, and wrong wherever labels are used.
FLIP_KEEPS_LABEL = False


def class_names(size: str) -> tuple[str, ...]:
    """Returns the class names of a size ("easy", "full"), sorted. Raises: ValueError for another name."""
    return get_size(size).class_names


def get_size(size: str, *, side: int = 0, train_clips: int = 0, test_clips: int = 0) -> Size:
    """Returns the parameters of a size, with those replaced that are not 0.

    Args:
      size: "easy" or "full".
      side: frame side in pixels, even, at least 16; 0 = the default of the size.
      train_clips: number of training clips; 0 = the default of the size.
      test_clips: number of test clips; 0 = the default of the size.

    Raises:
      ValueError: unknown size, odd or small side, negative number of clips.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r} of motion; known: {', '.join(SIZES)}")
    for key, value in (("side", side), ("train_clips", train_clips), ("test_clips", test_clips)):
        if value < 0:
            raise ValueError(f"motion: {key}={value} is negative (0 means the default of {size!r})")
    if side and (side < 16 or side % 2):
        raise ValueError(f"motion: side={side} must be even (4:2:0 video) and at least 16")
    default = SIZES[size]
    return dataclasses.replace(
        default,
        side=side or default.side,
        train_clips=train_clips or default.train_clips,
        test_clips=test_clips or default.test_clips,
    )


def pair_of(label: str) -> tuple[str, bool]:
    """Returns the pair of a label, and True if its clips have the frames in reverse order. Raises: ValueError."""
    for pair, names in PAIRS.items():
        if label in names:
            return pair, names.index(label) == 1
    raise ValueError(f"unknown class {label!r} of motion")


def digest(size: Size, seed: int, photographs: dict[str, tuple[str, ...]]) -> str:
    """Returns 12 hex digits that identify a set: a hash of all parameters, the seed, the photographs' names and VERSION."""
    key = [VERSION, dataclasses.asdict(size), PAIRS, seed, photographs]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
