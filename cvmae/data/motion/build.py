"""Builds a set of clips in a folder, with all cores."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import cv2

from cvmae.data.motion import render, video
from cvmae.data.motion.spec import Size, get_size
from cvmae.data.processes import cores, start_python

MANIFEST = "manifest.csv"
SPLITS = ("train", "test")
_CLIPS_PER_WORKER = 100  # below this, starting a further process costs more than it saves


def build(folder: pathlib.Path, size: Size, seed: int, workers: int, progress: Callable[[], object]) -> None:
    """Writes `train/*.mp4`, `test/*.mp4` and, after them, the manifest into an existing folder.

    Args:
      folder: where to write.
      size: parameters.
      seed: of the set.
      workers: processes; 0 = one per core. The frames do not depend on it.
      progress: called once per finished clip.

    Raises:
      RuntimeError: a worker process failed (its own message is on stderr).
    """
    for split in SPLITS:
        (folder / split).mkdir()
    total = size.train_clips + size.test_clips
    workers = min(workers or cores(), max(1, total // _CLIPS_PER_WORKER))
    if workers == 1:
        rows = []
        for row in _work(folder, size, seed, 0, 1):
            rows.append(row)
            progress()
    else:
        rows = _run_workers(folder, size, seed, workers, progress)
    rows.sort(key=lambda row: row["path"])
    with open(folder / MANIFEST, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _work(folder: pathlib.Path, size: Size, seed: int, first: int, step: int) -> Iterator[dict[str, str]]:
    """Renders and writes every `step`-th clip from `first` on; yields the manifest's row of each."""
    clips = [(s, i) for s, n in zip(SPLITS, (size.train_clips, size.test_clips)) for i in range(n)]
    names = size.class_names
    for split, index in clips[first::step]:
        label = names[index % len(names)]
        frames, facts = render.clip(size, split, index, label, seed)
        path = f"{split}/{index:06d}.mp4"
        video.write(folder / path, frames, fps=size.fps, quantizer=size.quantizer)
        numbers = {k: v if isinstance(v, str) else f"{v:.4f}" for k, v in facts.items()}
        yield {"path": path, "label": label, "split": split, **numbers}


def _run_workers(folder, size, seed, workers, progress) -> list[dict[str, str]]:
    """Shares the clips out among processes and collects their rows."""
    jobs = [
        _start_worker({"folder": str(folder), "size": dataclasses.asdict(size), "seed": seed, "first": first, "step": workers})
        for first in range(workers)
    ]
    rows = []
    try:
        # The jobs are of equal length, so reading them in turn keeps the bar smooth and no pipe full.
        readers = [iter(job.stdout) for job in jobs]
        while readers:
            for reader in list(readers):
                line = next(reader, None)
                if line is None:
                    readers.remove(reader)
                else:
                    rows.append(json.loads(line))
                    progress()
        if any(job.wait() for job in jobs) or len(rows) != size.train_clips + size.test_clips:
            raise RuntimeError(f"motion: a process that renders clips into {folder} failed, see its message above")
    finally:
        for job in jobs:
            job.kill()
            job.wait()
            job.stdout.close()
    return rows


def _start_worker(job: dict) -> subprocess.Popen:
    process = start_python("from cvmae.data.motion import build; build.worker()")
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    return process


def worker() -> None:
    """Reads a job from stdin, writes one JSON line per clip to stdout."""
    job = json.load(sys.stdin)
    cv2.setNumThreads(1)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in job["size"].items()}
    size = dataclasses.replace(get_size(fields["name"]), **fields)
    for row in _work(pathlib.Path(job["folder"]), size, job["seed"], job["first"], job["step"]):
        # Flushed, so that the worker of a parent that was killed meets a broken pipe at its next clip and ends.
        print(json.dumps(row), flush=True)
