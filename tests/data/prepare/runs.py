"""Runs over miniature layouts, and looks at what they leave behind."""

import csv
import hashlib
import sys

from cvmae.data.prepare import Options

COMMAND = [sys.executable, "-m", "cvmae.data.prepare"]


def options(folder, dataset="hmdb51", **changes) -> Options:
    """Options for a layout in `folder`: `videos`, `labels`, and `out`; one process."""
    needs_no_labels = dataset == "folder" or (dataset == "imagenet" and not (folder / "labels").exists())
    labels = "" if needs_no_labels else str(folder / "labels")
    return Options(dataset, str(folder / "videos"), str(folder / "out"), labels, **{"workers": 1} | changes)


def table(path) -> list[list[str]]:
    """A CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def snapshot(folder):
    """Every file below a folder with its content and time."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths}
