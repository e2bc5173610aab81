"""The folder that pictures go to, and the list of them that a report reads."""

import json
import pathlib

import numpy as np

from cvmae.files import write_json
from cvmae.visualize.animation import write_gif, write_mp4, write_png

LIST = "figures.json"


class FigureFolder:
    """WORKDIR/figures: pictures, and `figures.json`, a list of {"file", "kind", "caption"}, files relative to that folder.

    What an earlier run listed there is removed first: pictures of other settings would stand among those of these.
    """

    def __init__(self, workdir, fps: float = 4.0):
        self.folder, self.fps = pathlib.Path(workdir) / "figures", fps
        self.entries: list[dict[str, str]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / LIST).exists():
            for entry in json.loads((self.folder / LIST).read_text(encoding="utf-8")):
                (self.folder / pathlib.PurePath(entry["file"]).name).unlink(missing_ok=True)
            (self.folder / LIST).unlink()

    def place(self, file: str, kind: str, caption: str) -> pathlib.Path:
        """Where a picture with this name is to be written; it is listed from now on."""
        self.entries.append({"file": file, "kind": kind, "caption": caption})
        return self.folder / file

    def still(self, file: str, kind: str, caption: str, picture: np.ndarray) -> None:
        """Writes a PNG of uint8 [H, W, 3]."""
        write_png(self.place(file, kind, caption), picture)

    def moving(self, stem: str, kind: str, caption: str, frames: np.ndarray, formats) -> None:
        """Writes frames uint8 [T, H, W, 3] as those of `gif` and `mp4` that are in `formats`."""
        for suffix, write in (("gif", write_gif), ("mp4", write_mp4)):
            if suffix in formats:
                write(self.place(f"{stem}.{suffix}", kind, caption), frames, self.fps)

    def close(self) -> None:
        """Writes the list, once everything that it names is there."""
        write_json(self.folder / LIST, self.entries)
