"""The folder of a run's figures, and the list of them that a report reads."""

import json
import pathlib

import numpy as np

from cvmae.files import write_json
from cvmae.storage.path import AnyPath, as_path
from cvmae.visualize.animation import write_gif, write_mp4, write_png

LIST = "figures.json"


class FigureFolder:
    """WORKDIR/figures: images, and `figures.json`, a list of {"file", "kind", "caption"} with paths relative to that folder.

    Files that an earlier run listed there are deleted first, so that figures of different settings do not mix.
    """

    def __init__(self, workdir, fps: float = 4.0):
        self.folder, self.fps = as_path(workdir) / "figures", fps
        self.entries: list[dict[str, str]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / LIST).exists():
            for entry in json.loads((self.folder / LIST).read_text(encoding="utf-8")):
                (self.folder / pathlib.PurePath(entry["file"]).name).unlink(missing_ok=True)
            (self.folder / LIST).unlink()

    def add(self, file: str, kind: str, caption: str) -> AnyPath:
        """Adds a file to the list and returns the path to write it to."""
        self.entries.append({"file": file, "kind": kind, "caption": caption})
        return self.folder / file

    def still(self, file: str, kind: str, caption: str, picture: np.ndarray) -> None:
        """Writes an image uint8 [H, W, 3] as PNG."""
        write_png(self.add(file, kind, caption), picture)

    def moving(self, stem: str, kind: str, caption: str, frames: np.ndarray, formats) -> None:
        """Writes frames uint8 [T, H, W, 3] as GIF or MP4, for those of `gif` and `mp4` that are in `formats`."""
        for suffix, write in (("gif", write_gif), ("mp4", write_mp4)):
            if suffix in formats:
                write(self.add(f"{stem}.{suffix}", kind, caption), frames, self.fps)

    def close(self) -> None:
        """Writes the list; call it after all files are written."""
        write_json(self.folder / LIST, self.entries)
