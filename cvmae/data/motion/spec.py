"""What `motion` is made of: its classes, its two sizes, and every range that a clip is drawn from.

Distances are fractions of the frame's side, angles are radians, brightness is in levels of 0..255.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

# Raise this when the same parameters begin to give other frames or other files: cached sets are then built anew.
VERSION = 1

# A pair is one generator: the first class is what it draws, the second is the same frames shown backwards.
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
    """The parameters of one size of the set; `(low, high)` are the ends of uniform distributions."""

    name: str
    pairs: tuple[str, ...]
    num_frames: int
    side: int  # pixels
    train_clips: int
    test_clips: int
    fps: int = 8
    radius: tuple[float, float] = (0.17, 0.25)  # of the object
    travel: tuple[float, float] = (0.35, 0.65)  # of the object, over the whole clip
    offset: float = 0.13  # the middle of the object's way lies within this distance of the frame's centre, on each axis
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
        """The labels in sorted order: position = the integer that a manifest reader gives to the label."""
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

# No class survives a mirror: left becomes right, clockwise becomes counter-clockwise. A horizontal flip is harmless in
# self-supervised training, where all views of a clip may be flipped together, and wrong wherever labels are used.
FLIP_KEEPS_LABEL = False


def class_names(size: str) -> tuple[str, ...]:
    """The labels of a size ("easy", "full"), sorted. Raises ValueError for another name."""
    return get_size(size).class_names


def get_size(size: str, *, side: int = 0, train_clips: int = 0, test_clips: int = 0) -> Size:
    """The parameters of a size, with what is not 0 replaced.

    Args:
      size: "easy" or "full".
      side: frame side in pixels, even, at least 16; 0 = the size's own.
      train_clips: number of training clips; 0 = the size's own.
      test_clips: number of test clips; 0 = the size's own.

    Raises:
      ValueError: unknown size, odd or small side, negative number of clips.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r} of motion; known: {', '.join(SIZES)}")
    changes = {"side": side, "train_clips": train_clips, "test_clips": test_clips}
    for key, value in changes.items():
        if value < 0:
            raise ValueError(f"motion: {key}={value} is negative (0 means the default of {size!r})")
    if side and (side < 16 or side % 2):
        raise ValueError(f"motion: side={side} must be even (4:2:0 video) and at least 16")
    return dataclasses.replace(SIZES[size], **{k: v for k, v in changes.items() if v})


def pair_of(label: str) -> tuple[str, bool]:
    """The pair that a label belongs to, and whether its clips are the pair's frames backwards."""
    for pair, names in PAIRS.items():
        if label in names:
            return pair, names.index(label) == 1
    raise ValueError(f"unknown class {label!r} of motion")


def digest(size: Size, seed: int, photographs: dict[str, tuple[str, ...]]) -> str:
    """12 hex digits that name this exact set; any parameter, the seed, a photograph or VERSION changes them."""
    key = [VERSION, dataclasses.asdict(size), PAIRS, seed, photographs]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
