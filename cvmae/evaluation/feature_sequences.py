"""Files of features for heads of temporal localization such as ActionFormer: one .npy [T, D] per video, and how its rows lie in time.

FOLDER/ID.npy holds float32 or float16 [T, D], where ID is the name of the video without its folder and extension; row t is of the
window that starts at `t * feat_stride` frames. A last window that had to be moved back to end with the video is left out, so that
all rows lie on that grid. FOLDER/ID.json has the path of the video, the number of windows, the times of the first and the
last frame of the first and the last of them, seconds, the label, the checksum of ID.npy (CRC-32), and what it was made from. FOLDER/features.json has the fields of a data set of ActionFormer
(https://github.com/happyharrycn/actionformer_release): `feat_stride` and `num_frames` in frames, `default_fps`, `input_dim`, `file_ext`.
"""

import functools
import io
import json
import pathlib
import re
import zlib

import numpy as np

from cvmae.config import ConfigError
from cvmae.data.clips import ClipSpec
from cvmae.evaluation.feature_files import NAME_BYTES, OUTDATED, TEMPORARY, NpzFiles, Stored, shortened
from cvmae.evaluation.feature_identity import IDENTITY
from cvmae.evaluation.feature_reading import crc32_of
from cvmae.files import set_aside
from cvmae.storage.path import AnyPath
from cvmae.storage.remote_path import RemotePath

SUMMARY = "features.json"
SUFFIX, SIDECAR = ".npy", ".json"


class GrowingSequence:
    """A .npy file of known shape that is written row by row, and the file beside it with the other values."""

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.rows, self._shape, self._dtype = path, 0, shape, dtype
        self._file = open(path, "wb")  # noqa: SIM115, it is open for as long as the video is decoded
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(content, header)
        self._crc32 = 0
        self._write(content.getvalue())

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._crc32 = zlib.crc32(content, self._crc32)

    @property
    def sidecar(self) -> pathlib.Path:
        """The temporary path of the file beside it."""
        return self.path.with_name(self.path.name.removesuffix(SUFFIX + TEMPORARY) + ".jsn" + TEMPORARY)  # no longer than its own

    def append(self, values: np.ndarray) -> None:
        """Writes the next rows, [k, D]; those beyond the shape are left out."""
        values = values[: max(0, self._shape[0] - self.rows)]
        self._write(np.ascontiguousarray(values, self._dtype).tobytes())
        self.rows += len(values)

    def finish(
        self,
        *,
        start_s: np.ndarray,
        end_s: np.ndarray,
        label: np.ndarray,
        path: str,
        labeled: np.ndarray | None = None,
        origin: dict | None = None,
    ) -> None:
        """Closes the file and writes the one beside it, which also says what the features were made from."""
        self._file.close()
        last = self._shape[0] - 1
        times = {"first_window_s": [start_s[0], end_s[0]], "last_window_s": [start_s[last], end_s[last]]}
        labels = {"label": label.tolist()} | ({} if labeled is None else {"labeled": bool(labeled)})
        made_from = {} if origin is None else {"made_from": origin}
        beside = {"path": path, "windows": last + 1, **times, **labels, "crc32": self._crc32, **made_from}
        self.sidecar.write_text(json.dumps(beside, indent=2) + "\n", encoding="utf-8")

    def abandon(self) -> None:
        """Closes and deletes the unfinished files."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def sidecar_of(path: AnyPath) -> AnyPath:
    """Returns the path of ID.json of ID.npy."""
    return path.with_name(path.name.removesuffix(SUFFIX) + SIDECAR)


class NpyFiles(NpzFiles):
    """Writer of FOLDER/ID.npy and FOLDER/ID.json; the first appears when both are complete."""

    def __init__(self, folder: AnyPath):
        super().__init__(folder, SUFFIX)

    @functools.cached_property
    def _width(self) -> int:
        """D of these features, by features.json, which is there before any file is looked at."""
        return json.loads((self._folder / SUMMARY).read_bytes())["input_dim"]

    def path(self, name: str) -> AnyPath:
        return self._folder / (shortened(video_id(name), NAME_BYTES - len(SUFFIX + TEMPORARY)) + SUFFIX)

    def look(self, path: AnyPath) -> Stored:
        """Returns what the file beside one says of it, if that has the shape of these features, and the checksum that was recorded with it.

        Earlier versions recorded none. Of an object in a bucket, which is there as a whole or not, nothing is read.
        """
        try:
            beside = json.loads(sidecar_of(path).read_bytes())
            if not isinstance(path, RemotePath):
                array = np.load(path, mmap_mode="r", allow_pickle=False)  # compares the length of the file with its shape
                is_changed = "crc32" in beside and beside["crc32"] != crc32_of(path)
                if array.shape != (beside["windows"], self._width) or is_changed:
                    return Stored(damaged=True)
            # Of an earlier version an empty list of labels is of a video without a label, or without a class.
            known = {name: beside[name] for name in ("path", "label") if beside[name] != []}
            return Stored(beside["windows"], beside.get("made_from", known))
        except (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(path, RemotePath) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            return Stored(damaged=True)

    def put_aside(self, name: str) -> None:
        super().put_aside(name)
        if (beside := sidecar_of(self.path(name))).exists():
            set_aside(beside, OUTDATED)

    def begin(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> GrowingSequence:  # type: ignore[override]
        return GrowingSequence(self.temporary(name), shape, dtype)

    def add(self, name: str, file: GrowingSequence) -> None:  # type: ignore[override]
        path = self.path(name)
        if not isinstance(path, RemotePath) or path in self._in_bucket:
            path.unlink(missing_ok=True)  # an interruption would leave it beside what says of other features what they are
        self.publish(file.sidecar, sidecar_of(path))
        self.publish(file.path, path)


def video_id(name: str) -> str:
    """Returns the name of a video as annotations have it: `validation/a.mp4` is `a`; of a part of it, `a@2.0-5.0`."""
    return re.sub(r"\.\w+(?=$|[@~])", "", name.rpartition("/")[2], count=1)


def check_names(names: list[str]) -> None:
    """Raises ConfigError where two videos would have one file."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(video_id(name), name)
        taken = [file for file in (SUMMARY, IDENTITY) if video_id(name) + SIDECAR == file]
        if other != name or taken:
            why = f"{other} and {name}" if other != name else f"{name} and {taken[0]}"
            raise ConfigError(
                f"config.extract.format='npy' names files by the video alone, without its folder and extension, which are the same for {why}: "
                "rename one, or take format=npz"
            )


def summary(spec: ClipSpec, window_stride: int, width: int) -> dict:
    """Returns what features.json holds.

    With `spec.fps` frames are counted at that rate, which heads must take as `default_fps`; without it, at the rate of each file.

    Args:
      spec: the frames of a window.
      window_stride: clip frames from one window to the next; 0: no overlap.
      width: D of the features.
    """
    return {
        "feat_stride": (window_stride or spec.num_frames) * spec.stride,
        "num_frames": spec.num_frames * spec.stride,
        "default_fps": spec.fps or None,
        "input_dim": width,
        "file_ext": SUFFIX,
    }
