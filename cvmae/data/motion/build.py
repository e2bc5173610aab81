"""Builds a set of clips in a folder, in one process per core."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2

from cvmae.data import clip_files, worker_pool
from cvmae.data.motion import render
from cvmae.data.motion.spec import Size, get_size

MANIFEST = "manifest.csv"
SPLITS = ("train", "test")
FUNCTION = f"{__name__}:render_job"
_CLIPS_PER_WORKER = 100  # below this, starting a further process costs more than it saves
_CLIPS_PER_JOB = 10  # few enough that all processes end at about the same time and the progress bar moves


def build(folder: pathlib.Path, size: Size, seed: int, workers: int, progress: Callable[[], object]) -> None:
    """Writes `train/*.mp4`, `test/*.mp4` and, after them, the manifest into an existing folder.

    Args:
      folder: where to write.
      size: parameters.
      seed: of the set.
      workers: processes; 0 = one per core. The frames do not depend on it.
      progress: called once per finished clip.

    Raises:
      RuntimeError: a worker process failed; its message is in the error, its traceback (if it has one) on stderr.
    """
    for split in SPLITS:
        (folder / split).mkdir()
    total = size.train_clips + size.test_clips
    workers = min(workers or worker_pool.available_cores(), max(1, total // _CLIPS_PER_WORKER))
    rows = []
    for row in _render(folder, size, seed, range(total)) if workers == 1 else _render_in_pool(folder, size, seed, workers):
        rows.append(row)
        progress()
    rows.sort(key=lambda row: row["path"])
    with open(folder / MANIFEST, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _render(folder: pathlib.Path, size: Size, seed: int, clips: Iterable[int]) -> Iterator[dict[str, str]]:
    """Renders and writes clips, numbered over both splits, training first; yields each clip's row of the manifest."""
    names = size.class_names
    for number in clips:
        split, index = ("train", number) if number < size.train_clips else ("test", number - size.train_clips)
        label = names[index % len(names)]
        frames, facts = render.clip(size, split, index, label, seed)
        path = f"{split}/{index:06d}.mp4"
        clip_files.write(folder / path, frames, fps=size.fps, quantizer=size.quantizer)
        numbers = {k: v if isinstance(v, str) else f"{v:.4f}" for k, v in facts.items()}
        yield {"path": path, "label": label, "split": split, **numbers}


def _render_in_pool(folder, size, seed, workers) -> Iterator[dict[str, str]]:
    """Renders all clips in worker processes; yields the manifest's rows as jobs complete."""
    total = size.train_clips + size.test_clips
    parameters = {"folder": str(folder), "size": dataclasses.asdict(size), "seed": seed}
    jobs = [parameters | {"first": first, "end": min(first + _CLIPS_PER_JOB, total)} for first in range(0, total, _CLIPS_PER_JOB)]
    for job, answer in worker_pool.run(FUNCTION, jobs, workers):
        if isinstance(answer, worker_pool.Failure):
            raise RuntimeError(f"motion: rendering clips {job['first']} to {job['end'] - 1} into {folder} failed: {answer}")
        yield from answer["rows"]


def render_job(job: dict) -> dict:
    """Renders the clips of one job of the worker pool; returns {"rows": the manifest's rows}."""
    cv2.setNumThreads(1)  # there is a process for every core
    # JSON has lists for tuples.
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["size"].items()}
    size = dataclasses.replace(get_size(fields["name"]), **fields)
    try:
        return {"rows": list(_render(pathlib.Path(job["folder"]), size, job["seed"], range(job["first"], job["end"])))}
    except Exception:
        traceback.print_exc()  # the pool passes on the exception's name and text only
        raise
