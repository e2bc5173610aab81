"""Source of generated videos, `data.source=synthetic`."""

import dataclasses

import numpy as np

from cvmae.data.records import Record


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Source of generated videos of moving textures, for tests without data.

    A record is a function of its number and the split. Its label is number % classes, and textures of a class move in the
    direction of that class.

    Attributes:
      clips: number of records.
      classes: number of classes.
      frames, height, width: size of a video, in frames and pixels.
      split: splits have different textures.
      class_names: always empty.
    """

    clips: int
    classes: int
    frames: int
    height: int
    width: int
    split: str
    class_names: tuple[str, ...] = ()
    label_sets = None  # without a type it is no field, which `identity` would show

    @property
    def labels(self) -> np.ndarray:
        return (np.arange(self.clips) % self.classes).astype(np.int32)

    def __len__(self):
        return self.clips

    @property
    def identity(self) -> str:
        return str(self)

    def key(self, index):
        return f"synthetic/{self.split}/{index}"

    def __getitem__(self, index):
        label = index % self.classes
        rng = np.random.default_rng([index, *self.split.encode()])
        angle = 2 * np.pi * label / self.classes
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        texture = coarse.repeat(-(-self.height // 8), 0).repeat(-(-self.width // 8), 1)[: self.height, : self.width]
        video = np.empty((self.frames, self.height, self.width, 3), np.uint8)
        for t, frame in enumerate(video):
            shift = (round(2 * t * np.sin(angle)), round(2 * t * np.cos(angle)))
            frame[:] = np.roll(texture, shift, (0, 1))
        return Record(self.key(index), label, None, None, video)
