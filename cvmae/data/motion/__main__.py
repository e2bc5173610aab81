"""The command: builds a set, and on request draws a contact sheet of it or measures simple baselines on it.

    python -m cvmae.data.motion --size=easy --out=DIR --sheet=easy.png
    python -m cvmae.data.motion --size=full --train_clips=3000 --test_clips=600 --baselines --baseline_seeds=1 --baseline_clips=0

Exit codes: 0 done, with the manifest's path on stdout; 1 the disk or a process that renders failed; 2 the command is wrong;
130 interrupted, 143 ended by SIGTERM, both with nothing left of the set.
"""

from __future__ import annotations

import csv
import pathlib
import signal
import sys

import cv2
import numpy as np
from absl import app, flags

from cvmae.cli import fail, parse_own
from cvmae.data import motion
from cvmae.data.motion import video

FLAGS = flags.FlagValues()  # of this command alone, so that other commands' may have the same names in one process
flags.DEFINE_enum("size", "easy", sorted(motion.SIZES), "Which set.", flag_values=FLAGS)
flags.DEFINE_string("out", "", "Folder of the cached sets; empty = $CVMAE_CACHE or ~/.cache/cvmae.", flag_values=FLAGS)
flags.DEFINE_integer("train_clips", 0, "Training clips; 0 = the size's own number.", flag_values=FLAGS)
flags.DEFINE_integer("test_clips", 0, "Test clips; 0 = the size's own number.", flag_values=FLAGS)
flags.DEFINE_integer("side", 0, "Frame side in pixels; 0 = the size's own.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the set.", flag_values=FLAGS)
flags.DEFINE_integer("workers", 0, "Rendering processes; 0 = one per core.", flag_values=FLAGS)
flags.DEFINE_string("sheet", "", "PNG to write: some clips of each class, a clip per row, time to the right.", flag_values=FLAGS)
flags.DEFINE_bool("baselines", False, "Measure logistic regression on hand-made features.", flag_values=FLAGS)
flags.DEFINE_integer("baseline_seeds", 3, "Fits of a baseline, each on other training clips.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("baseline_clips", 1600, "Training clips of a fit; 0 = all: one fit.", lower_bound=0, flag_values=FLAGS)


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


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__)
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}: options start with --")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def build_and_show() -> None:
    """Builds the set of the flags, and prints and draws what they ask for. Raises: ValueError, OSError, RuntimeError."""
    counts = FLAGS.train_clips, FLAGS.test_clips
    manifest = motion.prepare(FLAGS.size, FLAGS.out, *counts, FLAGS.seed, side=FLAGS.side, workers=FLAGS.workers)
    print(manifest)
    if FLAGS.sheet and not cv2.imwrite(FLAGS.sheet, contact_sheet(manifest)[:, :, ::-1]):
        raise OSError(f"cannot write {FLAGS.sheet}")
    if FLAGS.baselines:
        from cvmae.data.motion import baselines  # scikit-learn takes a second to import

        print(baselines.table(manifest, seeds=FLAGS.baseline_seeds, clips=FLAGS.baseline_clips))


def main(argv: list[str]) -> None:
    """Hands the flags over."""
    try:
        build_and_show()
    except ValueError as error:
        fail(error, 2)
    except (OSError, RuntimeError, cv2.error) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: the set is not built", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends processes and removes temporary files
    app.run(main, flags_parser=parse)
