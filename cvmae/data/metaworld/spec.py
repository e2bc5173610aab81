"""Specification of the Meta-World set: its tasks and labels, its splits, the windows of an episode, and the ranges of its looks.

Tasks and names are those of Meta-World (arXiv 1910.10897), version 3 of the environments. Lengths are meters, angles degrees,
colors fractions of full brightness.
"""

import dataclasses

# Raise this when the same options give different frames or files than before: clips of earlier versions are then rendered again.
VERSION = 1

# Two tasks that do opposite things to one object, by the object's name.
PAIRS = {
    "coffee mug": ("coffee-pull", "coffee-push"),
    "door": ("door-open", "door-close"),
    "door lock": ("door-lock", "door-unlock"),
    "drawer": ("drawer-open", "drawer-close"),
    "faucet": ("faucet-open", "faucet-close"),
    "front handle": ("handle-press", "handle-pull"),
    "peg": ("peg-insert-side", "peg-unplug-side"),
    "plate": ("plate-slide", "plate-slide-back"),
    "plate at the side": ("plate-slide-side", "plate-slide-back-side"),
    "puck": ("push", "push-back"),
    "ring": ("assembly", "disassemble"),
    "side handle": ("handle-press-side", "handle-pull-side"),
    "stick": ("stick-push", "stick-pull"),
    "window": ("window-open", "window-close"),
}
SINGLE = (
    "basketball",
    "bin-picking",
    "box-close",
    "button-press",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press-wall",
    "coffee-button",
    "dial-turn",
    "hammer",
    "hand-insert",
    "lever-pull",
    "pick-out-of-hole",
    "pick-place",
    "pick-place-wall",
    "push-wall",
    "reach",
    "reach-wall",
    "shelf-place",
    "soccer",
    "sweep",
    "sweep-into",
)
OBJECT_OF = {task: name for name, pair in PAIRS.items() for task in pair} | {task: task for task in SINGLE}
TASKS = tuple(sorted(OBJECT_OF))

MAX_STEPS = 300  # of an episode; policies that succeed do so in 30 to 200
DIRECTIONS = ("forwards", "backwards")
LABELS = ("task", "object", "direction")  # a manifest for each

# Fractions of an episode in which a clip starts and ends; an episode ends a few steps after its success.
ENTIRE = ((0.0, 0.35), (0.75, 1.0))
# For `direction`: the arm rests at the start of an episode, so a clip's first frame would tell whether time runs backwards.
INSIDE = ((0.3, 0.5), (0.6, 0.8))


@dataclasses.dataclass(frozen=True)
class Look:
    """Ranges of camera, light and colors; `(low, high)` are the bounds of uniform distributions.

    Attributes:
      azimuth, elevation, distance: of the camera, around the middle of the table.
      shift: largest displacement of the point that the camera looks at, each axis.
      gain: brightness of a material, or of a part without one.
      tint: of each of its color channels besides.
      turns: number of places by which the color channels are rotated, drawn from these: 1 makes red things green.
      light: brightness of each lamp.
      headlight: brightness of the light at the camera, diffuse and ambient.
      lamp_shift: largest displacement of a lamp, each axis.
      is_wooden: True keeps the wooden surface of the table, False gives it a plain color, between the bounds of `plain`.
      plain: that color's channels.
    """

    azimuth: tuple[float, float] = (130.0, 170.0)
    elevation: tuple[float, float] = (-45.0, -25.0)
    distance: tuple[float, float] = (1.05, 1.35)
    shift: float = 0.06
    gain: tuple[float, float] = (0.75, 1.15)
    tint: tuple[float, float] = (0.88, 1.12)
    turns: tuple[int, ...] = (0,)
    light: tuple[float, float] = (0.4, 1.6)
    headlight: tuple[float, float] = (0.3, 0.5)
    lamp_shift: float = 0.3
    is_wooden: bool = True
    plain: tuple[float, float] = (0.0, 1.0)


SEEN = Look()
# The other side of the table, where the arm hides little; other colors of everything, a table without wood, and more even light.
UNSEEN = Look(
    azimuth=(0.0, 30.0),
    gain=(0.5, 0.75),
    tint=(0.7, 1.3),
    turns=(1, 2),
    headlight=(0.5, 0.65),
    is_wooden=False,
    plain=(0.1, 0.45),
)


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of the set.

    Attributes:
      name: in the manifests.
      episodes: name of the episodes' random stream; two splits with the same one show the same episodes.
      look: ranges of the appearance.
      option: field of `Options` with the number of clips of each task.
    """

    name: str
    episodes: str
    look: Look
    option: str


SPLITS = (
    Split("train", "train", SEEN, "clips"),
    Split("val", "val", SEEN, "val_clips"),
    Split("test", "test", SEEN, "test_clips"),
    # The episodes of `test`, so that the two differ in nothing but appearance.
    Split("test_unseen", "test", UNSEEN, "test_clips"),
)
SPLIT_OF_NAME = {split.name: split for split in SPLITS}
