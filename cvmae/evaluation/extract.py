"""Extraction of the features of videos of any length, window by window, into one file per video."""

import dataclasses
import errno
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from cvmae.config import require
from cvmae.data.bad_files import BadFiles, pack_failures
from cvmae.data.labels import label_sets_of
from cvmae.data.pipeline import clip_spec
from cvmae.data.windows import Failed, Opened, Window, WindowLoader, Windows
from cvmae.evaluation.feature_cache import encoder_identity, open_cache, process_slice
from cvmae.evaluation.feature_files import GrowingFile, NpzFiles, RecordFiles
from cvmae.evaluation.feature_sequences import SUMMARY, GrowingSequence, NpyFiles, check_names, summary
from cvmae.evaluation.features import FeatureSpec, encoded_batches, make_encode
from cvmae.evaluation.multi_view import whole_batch
from cvmae.files import write_json
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import evaluation_bar
from cvmae.storage.path import as_path

DTYPES = ("float32", "float16")
FORMATS: dict[str, type[NpzFiles] | type[RecordFiles]] = {"npz": NpzFiles, "array_record": RecordFiles, "npy": NpyFiles}
# Errors that the name of a file causes; all others would be met by the next file as well.
_OF_THE_NAME = frozenset((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.EEXIST))


def extract_features(
    config,
    params,
    source,
    folder,
    spec: FeatureSpec,
    *,
    window_stride: int = 0,
    format: str = "npz",
    dtype: str = "float32",
    placement: Placement = HOST,
) -> dict[str, int]:
    """Writes the features of every video of a source that has no file in `folder` yet.

    Windows are those of `data.windows.plan_windows`, files those of `feature_files`, and of `feature_sequences` with format npy. Windows of several videos share a batch, and
    the composition of batches depends on the timing of the decoding threads, so runs may differ in the last bit. Unreadable
    videos, and those whose names no file can have, are listed in bad_files.csv and have no file; the next run tries them again.
    Each process handles videos of its own, and all processes return the total counts.

    Args:
      config: the config, with the encoder, the clips (windows use their frames, stride, fps and shape) and the batch size.
      params: parameters of the video encoder.
      source: see `data.sources`.
      folder: the output folder, which must contain nothing but these features.
      spec: the features to extract.
      window_stride: clip frames from the start of one window to the start of the next; 0: windows do not overlap.
      format: one of `FORMATS`.
      dtype: dtype of the features in the files, `float32` or `float16`.
      placement: the placement of batches on devices.

    Returns:
      {videos: in the source, written: by this run, skipped: written earlier, unreadable, windows: written by this run}.

    Raises:
      BadDataError: the fraction of unreadable videos exceeds config.data.max_bad_fraction.
      ConfigError: the folder holds features of other settings, or several processes would write the same shards.
      ValueError: an argument is wrong, or a value is too large for float16.
    """
    names = output_names(source)
    _check_files(format, dtype, spec, names)
    encode, files = make_encode(config, spec, placement), FORMATS[format](as_path(folder))
    _claim_folder(config, encode, params, spec, folder, (window_stride, format, dtype))
    todo = [number for number, name in enumerate(names) if name not in files]
    skipped = len(source) - len(todo)
    processes.barrier(f"looked at {folder}")  # before any write, so that all processes see the same missing files
    todo = process_slice(todo)
    bad = BadFiles(folder, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
    size = whole_batch(max(1, config.batch_size // jax.process_count()))
    with (
        WindowLoader(config, source, todo, size, window_stride) as loader,
        evaluation_bar(len(todo), "features", "video") as bar,
    ):
        with _Writing(files, names, bad, np.dtype(dtype), bar, label_sets_of(source)) as writing:
            for values, batch in encoded_batches(lambda video: encode(params, video), _batches(loader, size, writing), placement):
                writing.take(batch["number"], values)
        files.finish()
    return {"videos": len(source), "skipped": skipped} | writing.counts_of_all()


def _claim_folder(config, encode, params, spec: FeatureSpec, folder, settings: tuple[int, str, str]) -> None:
    """Makes the folder that of these features, and writes features.json for npy; settings: window stride, format and dtype."""
    open_cache(folder, encoder_identity(config, params, spec) | {"windows": list(settings)})
    if settings[1] == "npy" and processes.is_main_process():
        clip = jax.ShapeDtypeStruct((1, 1, config.data.num_frames, *config.data.frame_size, 3), np.uint8)
        width = jax.eval_shape(encode, params, clip).shape[-1]
        write_json(as_path(folder) / SUMMARY, summary(clip_spec(config), settings[0], width))


def _check_files(format: str, dtype: str, spec: FeatureSpec, names: list[str]) -> None:
    """Raises ValueError for an unknown dtype or format, ConfigError for a format that cannot hold the features of these videos."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    require(
        format != "npy" or spec.tokens == "pooled",
        f"config.extract.format='npy' has one vector a window, not tokens={spec.tokens!r}: take tokens=pooled, or format=npz",
    )
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    require(
        format != "array_record" or processes.is_single_process(),
        f"config.extract.format={format!r} is written by one process alone: take npz, or one process",
    )
    if format == "npy":
        check_names(names)


def output_names(source) -> list[str]:
    """Returns a unique name for every record of a source: its key, with `~2`, `~3` ... appended to repeated keys."""
    names = {}
    for number in range(len(source)):
        key = name = source.key(number)
        occurrence = 1
        while name in names:
            occurrence += 1
            name = f"{key}~{occurrence}"
        names[name] = number
    return list(names)


def _batches(loader: WindowLoader, size: int, writing: "_Writing") -> Iterator[dict[str, np.ndarray]]:
    """Yields batches {video: uint8 [size, 1, T, H0, W0, 3], number: int64 [size]} of windows; number is -1 in padding rows."""
    waiting = []
    for event in loader:
        if isinstance(event, Window):
            waiting.append(event)
        elif isinstance(event, Opened):
            writing.open(event)
        else:
            writing.fail(event)
        if len(waiting) == size:
            yield _stack(waiting, size)
            waiting = []
    if waiting:
        yield _stack(waiting, size)


def _stack(windows: list[Window], size: int) -> dict[str, np.ndarray]:
    video, number = np.zeros((size, 1, *windows[0].video.shape), np.uint8), np.full(size, -1, np.int64)
    for row, window in enumerate(windows):
        video[row, 0], number[row] = window.video, window.number
    return {"video": video, "number": number}


@dataclasses.dataclass
class _Video:
    """A video some of whose windows are still to come."""

    label: int
    windows: Windows
    kept: int  # the number of the first windows that have a row
    rows: int = 0
    file: GrowingFile | GrowingSequence | None = None


class _Writing:
    """Writer of features, which arrive in the order of the windows of each video; incomplete files are deleted at the end."""

    def __init__(
        self,
        files: NpzFiles | RecordFiles | NpyFiles,
        names: list[str],
        bad: BadFiles,
        dtype: np.dtype,
        bar: tqdm,
        label_sets: np.ndarray | None = None,
    ):
        self._label_sets = label_sets
        self._files, self._names, self._bad, self._dtype, self._bar = files, names, bad, dtype, bar
        self._videos: dict[int, _Video] = {}
        self.written = self.unreadable = self.windows = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in list(self._videos):
            self._drop(number)

    def open(self, event: Opened) -> None:
        kept = event.windows.regular if isinstance(self._files, NpyFiles) else len(event.windows)
        self._videos[event.number] = _Video(event.label, event.windows, kept)

    def fail(self, event: Failed) -> None:
        """Records an unreadable video. Raises: BadDataError if there are too many."""
        self._drop(event.number)
        self.unreadable += 1
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
            label = self._label(video.label)
            more = {} if self._label_sets is None else {"labeled": np.array(video.label >= 0)}
            video.file.finish(start_s=video.windows.start_s, end_s=video.windows.end_s, label=label, path=name, **more)
            self._files.add(name, video.file)
            del self._videos[number]
            self.written += 1
            self.windows += video.kept
            self._bar.update()

    def _label(self, label: int) -> np.ndarray:
        """Returns a label as it is written: int32 [], -1 unlabeled; of several the class numbers, int32 [k], ascending."""
        if self._label_sets is None:
            return np.array(label, np.int32)
        return np.flatnonzero(self._label_sets[label] if label >= 0 else ()).astype(np.int32)

    def _begin(self, number, name, shape) -> GrowingFile | GrowingSequence | None:
        """Opens the file of a video; None, and the video is listed, if no file can have its name."""
        try:
            return self._files.begin(name, shape, self._dtype)
        except OSError as error:
            if error.errno not in _OF_THE_NAME:
                raise
            self.fail(Failed(number, name, f"no file for its features can be written: {error.strerror}; rename the video"))
            return None

    def counts_of_all(self) -> dict[str, int]:
        """Sums the counts of all processes and merges their lists of bad files. Raises: BadDataError if there are too many."""
        names = ("written", "unreadable", "windows")
        gathered = processes.allgather_json([*(getattr(self, name) for name in names), self._bad.pairs])
        for *_, pairs in gathered:
            self._bad.add([tuple(pair) for pair in pairs])
        return dict(zip(names, map(sum, list(zip(*gathered))[: len(names)])))

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
