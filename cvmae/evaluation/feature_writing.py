"""Writing of features, which arrive window by window and video after video, into one file per video."""

import dataclasses
import errno
import pathlib
from collections.abc import Container

import numpy as np
from tqdm import tqdm

from cvmae.data.bad_files import BadFiles, pack_failures
from cvmae.data.stamps import VideoStamp
from cvmae.data.windows import Failed, Opened, Windows
from cvmae.evaluation.feature_files import GrowingFile, NpzFiles
from cvmae.evaluation.feature_origins import label_value, origin_of
from cvmae.evaluation.feature_sequences import GrowingSequence, NpyFiles
from cvmae.evaluation.feature_shards import RecordFiles
from cvmae.parallel import processes

# Errors of the name or the place of one file; all others would be met by the next file as well.
_TAKEN = frozenset((errno.ENOTDIR, errno.EISDIR, errno.EEXIST))
_OF_THE_NAME = frozenset((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)) | _TAKEN


@dataclasses.dataclass
class _Video:
    """A video some of whose windows are still to come."""

    label: int
    windows: Windows
    stamp: VideoStamp | None
    kept: int  # the number of the first windows that have a row
    rows: int = 0
    file: GrowingFile | GrowingSequence | None = None


class Writing:
    """Writer of features, which arrive in the order of the windows of each video; incomplete files are deleted at the end."""

    def __init__(
        self,
        files: NpzFiles | RecordFiles | NpyFiles,
        names: list[str],
        bad: BadFiles,
        dtype: np.dtype,
        bar: tqdm,
        label_sets: np.ndarray | None = None,
        outdated: Container[int] = (),
        encoder: str = "",
    ):
        self._label_sets, self._outdated, self._encoder = label_sets, outdated, encoder
        self._files, self._names, self._bad, self._dtype, self._bar = files, names, bad, dtype, bar
        self._videos: dict[int, _Video] = {}
        self._written: dict[int, tuple[int, str]] = {}  # the windows and the stamp of each video that was written, by its number
        self._failed: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in list(self._videos):
            self._drop(number)

    def open(self, event: Opened) -> None:
        kept = event.windows.regular if isinstance(self._files, NpyFiles) else len(event.windows)
        self._videos[event.number] = _Video(event.label, event.windows, event.stamp, kept)

    def fail(self, event: Failed) -> None:
        """Records an unreadable video; outdated features of it are put aside. Raises: BadDataError if there are too many."""
        self._drop(event.number)
        self._failed.append(event.number)
        if event.number in self._outdated:
            self._files.put_aside(self._names[event.number])
        self._bar.update()
        self._bad.update(pack_failures([(event.name, event.reason)])[None])

    def take(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Writes features `values` [b, ...] of the records `numbers`, int64 [b], -1 for padding."""
        for number in dict.fromkeys(numbers.tolist()):
            if number in self._videos:  # neither padding nor a video that has failed since
                self._append(number, values[numbers == number])

    def _append(self, number, values):
        video, name = self._videos[number], self._names[number]
        if video.file is None:  # opened late: with one window per video, a batch of files would be open at once
            video.file = self._begin(number, name, (video.kept, *values.shape[1:]))
            if video.file is None:
                return
        video.file.append(self._cast(name, values))
        video.rows += len(values)
        if video.rows == len(video.windows):
            self._finish(number, name, video)
            self._written[number] = video.kept, (video.stamp and video.stamp.text) or ""
            self._bar.update()

    def _finish(self, number, name, video):
        label = label_value(video.label, self._label_sets)
        more = {} if self._label_sets is None else {"labeled": np.array(label is not None)}
        video.file.finish(
            origin=origin_of(name, label, video.stamp, self._encoder),
            start_s=video.windows.start_s,
            end_s=video.windows.end_s,
            label=np.array([] if label is None else label, np.int32),
            path=name,
            **more,
        )
        self._files.add(name, video.file)
        del self._videos[number]

    def _begin(self, number, name, shape) -> GrowingFile | GrowingSequence | None:
        """Opens the file of a video; None, and the video is listed, if no file can have its name."""
        try:
            return self._files.begin(name, shape, self._dtype)
        except OSError as error:
            if error.errno not in _OF_THE_NAME:
                raise
            self.fail(Failed(number, name, f"no file for its features can be written: {_remedy(error)}"))
            return None

    def of_all_processes(self) -> tuple[dict[int, tuple[int, str]], int]:
        """Merges the lists of bad files of all processes. Raises: BadDataError if there are too many.

        Returns:
          The windows and the stamp of every video that was written, by its number, and how many videos failed.
        """
        gathered = processes.allgather_json([list(self._written.items()), len(self._failed), self._bad.seen])
        for _, _, pairs in gathered:
            self._bad.add([tuple(pair) for pair in pairs])
        all_written = {number: tuple(features) for written, _, _ in gathered for number, features in written}
        return all_written, sum(part[1] for part in gathered)

    def _cast(self, name, values):
        with np.errstate(over="ignore"):
            cast = values.astype(self._dtype)
        if np.isinf(cast).any() and np.isfinite(values).all():
            raise ValueError(f"{name}: a feature of {np.abs(values).max():.3g} does not fit {self._dtype}: take float32")
        return cast

    def _drop(self, number):
        video = self._videos.pop(number, None)
        if video is not None and video.file is not None:
            video.file.abandon()


def _remedy(error: OSError) -> str:
    """Returns why a file cannot be written, and what to do: move away what has its place, or give the video another name."""
    if error.errno not in _TAKEN or not error.filename:
        return f"{error.strerror}; rename the video"
    path = pathlib.Path(error.filename)
    # A folder has the name of a file, or a file that of one of the folders above it.
    taken = path if path.is_dir() else next((folder for folder in (path, *path.parents) if folder.is_file()), path)
    return f"a {'folder' if taken.is_dir() else 'file'} is in its place; rename the video, or move away {taken}"
