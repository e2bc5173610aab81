"""Command that builds a set, and optionally draws a contact sheet of it or measures simple baselines on it.

    python -m cvmae.data.motion --size=easy --out=DIR --sheet=easy.png
    python -m cvmae.data.motion --size=full --train_clips=3000 --test_clips=600 --baselines --baseline_seeds=1 --baseline_clips=0

Exit codes: 0 done, with the manifest's path on stdout; 1 the disk or a rendering process failed; 2 an error in the command;
130 interrupted, 143 ended by SIGTERM: after both, no part of the set is left.
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
from cvmae.data import clip_files, motion

FLAGS = flags.FlagValues()  # not the global flags, so that commands with the same names can be imported in one process
flags.DEFINE_enum("size", "easy", sorted(motion.SIZES), "Size of the set.", flag_values=FLAGS)
flags.DEFINE_string("out", "", "Folder of the cached sets; empty = $CVMAE_CACHE or ~/.cache/cvmae.", flag_values=FLAGS)
flags.DEFINE_integer("train_clips", 0, "Training clips; 0 = the default of the size.", flag_values=FLAGS)
flags.DEFINE_integer("test_clips", 0, "Test clips; 0 = the default of the size.", flag_values=FLAGS)
flags.DEFINE_integer("side", 0, "Frame side in pixels; 0 = the default of the size.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the set.", flag_values=FLAGS)
flags.DEFINE_integer("workers", 0, "Rendering processes; 0 = one per core.", flag_values=FLAGS)
flags.DEFINE_string(
    "sheet", "", "PNG to write, with some clips of each class: a clip per row, time from left to right.", flag_values=FLAGS
)
flags.DEFINE_bool("baselines", False, "Measure logistic regression on hand-made features.", flag_values=FLAGS)
flags.DEFINE_integer("baseline_seeds", 3, "Fits of each baseline, on different training clips.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "baseline_clips", 1600, "Training clips of a fit; 0 = all of them, in one fit.", lower_bound=0, flag_values=FLAGS
)


def contact_sheet(manifest: str, clips_per_class: int = 3, enlarge: int = 2) -> np.ndarray:
    """Draws the first clips of each class, about half of them from each split, a clip per row.

    Args:
      manifest: path of the set's CSV.
      clips_per_class: number of rows for each class.
      enlarge: integer factor of the frames' size.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    strips = []
    for label in sorted({row["label"] for row in rows}):
        class_rows = [row for row in rows if row["label"] == label]
        tests = [row for row in class_rows if row["split"] == "test"][: clips_per_class // 2]
        trains = [row for row in class_rows if row["split"] == "train"][: clips_per_class - len(tests)]
        for row in trains + tests:
            frames = clip_files.read(pathlib.Path(manifest).parent / row["path"])
            frames = frames.repeat(enlarge, 1).repeat(enlarge, 2)
            frames = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
            caption = np.full((frames.shape[1], 170, 3), 255, np.uint8)
            cv2.putText(caption, f"{label} {row['split']}", (2, frames.shape[1] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0)
            strips.append(np.concatenate([caption, *frames], 1))
    return np.concatenate(strips)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error in it ends the program with one line on stderr and exit code 2."""
    try:
        rest = parse_own(argv, FLAGS, __doc__, local=("out", "sheet"))
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}: options start with --")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def build_and_show() -> None:
    """Builds the set, prints its manifest's path, and draws and measures as the flags say.

    Raises: ValueError for a wrong flag; OSError if files cannot be written; RuntimeError if a rendering process failed.
    """
    counts = FLAGS.train_clips, FLAGS.test_clips
    manifest = motion.prepare(FLAGS.size, FLAGS.out, *counts, FLAGS.seed, side=FLAGS.side, workers=FLAGS.workers)
    print(manifest)
    if FLAGS.sheet and not cv2.imwrite(FLAGS.sheet, contact_sheet(manifest)[:, :, ::-1]):
        raise OSError(f"cannot write {FLAGS.sheet}")
    if FLAGS.baselines:
        from cvmae.data import baselines  # scikit-learn takes a second to import

        print(baselines.table(manifest, seeds=FLAGS.baseline_seeds, clips=FLAGS.baseline_clips))


def main(argv: list[str]) -> None:
    """Runs the command, and turns its errors into one line on stderr and an exit code."""
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
