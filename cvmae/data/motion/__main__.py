"""Builds a set, and on request draws a contact sheet of it or measures simple baselines on it.

python -m cvmae.data.motion --size=easy --out=DIR --sheet=easy.png
python -m cvmae.data.motion --size=full --train_clips=3000 --test_clips=600 --baselines --baseline_seeds=1 --baseline_clips=0
"""

from __future__ import annotations

import csv
import pathlib

import cv2
import numpy as np
from absl import app, flags

from cvmae.data import motion
from cvmae.data.motion import video

_SIZE = flags.DEFINE_enum("size", "easy", sorted(motion.SIZES), "Which set.")
_OUT = flags.DEFINE_string("out", "", "Folder of the cached sets; empty = $CVMAE_CACHE or ~/.cache/cvmae.")
_TRAIN_CLIPS = flags.DEFINE_integer("train_clips", 0, "Training clips; 0 = the size's own number.")
_TEST_CLIPS = flags.DEFINE_integer("test_clips", 0, "Test clips; 0 = the size's own number.")
_SIDE = flags.DEFINE_integer("side", 0, "Frame side in pixels; 0 = the size's own.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the set.")
_WORKERS = flags.DEFINE_integer("workers", 0, "Rendering processes; 0 = one per core.")
_SHEET = flags.DEFINE_string("sheet", "", "PNG to write: some clips of each class, a clip per row, time to the right.")
_BASELINES = flags.DEFINE_bool("baselines", False, "Measure logistic regression on hand-made features.")
_BASELINE_SEEDS = flags.DEFINE_integer("baseline_seeds", 3, "Fits of a baseline, each on other training clips.", lower_bound=1)
_BASELINE_CLIPS = flags.DEFINE_integer("baseline_clips", 1600, "Training clips of a fit; 0 = all: one fit.", lower_bound=0)


def contact_sheet(manifest: str, clips_per_class: int = 3, enlarge: int = 2) -> np.ndarray:
    """A picture of the first clips of each class, half of them from each split: uint8 [H, W, 3], RGB."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    strips = []
    for label in sorted({row["label"] for row in rows}):
        mine = [row for row in rows if row["label"] == label]
        tests = [row for row in mine if row["split"] == "test"][: clips_per_class // 2]
        trains = [row for row in mine if row["split"] == "train"][: clips_per_class - len(tests)]
        for row in trains + tests:
            frames = video.read(pathlib.Path(manifest).parent / row["path"])
            frames = frames.repeat(enlarge, 1).repeat(enlarge, 2)
            frames = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
            caption = np.full((frames.shape[1], 170, 3), 255, np.uint8)
            cv2.putText(caption, f"{label} {row['split']}", (2, frames.shape[1] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0)
            strips.append(np.concatenate([caption, *frames], 1))
    return np.concatenate(strips)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    manifest = motion.prepare(
        _SIZE.value, _OUT.value, _TRAIN_CLIPS.value, _TEST_CLIPS.value, _SEED.value, side=_SIDE.value, workers=_WORKERS.value
    )
    print(manifest)
    if _SHEET.value and not cv2.imwrite(_SHEET.value, contact_sheet(manifest)[:, :, ::-1]):
        raise OSError(f"cannot write {_SHEET.value}")
    if _BASELINES.value:
        from cvmae.data.motion import baselines  # scikit-learn takes a second to import

        print(baselines.table(manifest, seeds=_BASELINE_SEEDS.value, clips=_BASELINE_CLIPS.value))


if __name__ == "__main__":
    app.run(main)
