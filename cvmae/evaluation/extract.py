"""Features of whole videos, window by window, in a file for each."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from cvmae.config import require
from cvmae.data.bad_files import BadFiles, pack_failures
from cvmae.data.windows import Failed, Opened, Window, WindowLoader, Windows
from cvmae.evaluation.feature_cache import encoder_identity, open_cache, process_slice
from cvmae.evaluation.feature_files import GrowingFile, NpzFiles, RecordFiles, make_files
from cvmae.evaluation.features import FeatureSpec, encoded_batches, make_encode
from cvmae.evaluation.multi_view import whole_batch
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement

DTYPES = ("float32", "float16")


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
    """Writes the features of every video of a source that `folder` does not have yet.

    Windows are those of `data.windows.plan_windows`, files those of `feature_files`. Windows of several videos share a batch, and what
    shares one depends on the threads that decode, so that a run may differ from another in the last bit. Videos that
    cannot be read are listed in bad_files.csv and have no file; the next run tries them again. Of several processes each takes
    videos of its own, and all return the counts of all.

    Args:
      config: says the encoder, the clips (of which windows take frames, stride, fps and shape) and the batch size.
      params: of the video encoder.
      source: see `data.sources`.
      folder: where; of these features alone.
      spec: what of the encoder.
      window_stride: clip frames from the start of one window to that of the next; 0: windows do not overlap.
      format: `npz` or `array_record`.
      dtype: of the files, `float32` or `float16`.
      placement: of batches on the devices.

    Returns:
      {videos: of the source, written: by this run, skipped: there already, unreadable, windows: written by this run}.

    Raises:
      BadDataError: more videos than config.data.max_bad_fraction cannot be read.
      ConfigError: the folder holds features of something else, or several processes would write the same shards.
      ValueError: an argument is wrong, or a value is too large for float16.
    """
    _check_files(format, dtype)
    encode = make_encode(config, spec, placement)
    files, names = make_files(folder, format), output_names(source)
    open_cache(folder, encoder_identity(config, params, spec) | {"windows": [window_stride, format, dtype]})
    todo = [number for number, name in enumerate(names) if name not in files]
    skipped = len(source) - len(todo)
    processes.barrier(f"looked at {folder}")  # before any writes, so that all see the same ones missing
    todo = process_slice(todo)
    bad = BadFiles(folder, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
    size = whole_batch(max(1, config.batch_size // jax.process_count()))
    with (
        WindowLoader(config, source, todo, size, window_stride) as loader,
        tqdm(total=len(todo), unit="video", disable=None if processes.is_main_process() else True) as bar,
    ):
        with _Writing(files, names, bad, np.dtype(dtype), bar) as writing:
            for values, batch in encoded_batches(lambda video: encode(params, video), _batches(loader, size, writing), placement):
                writing.take(batch["number"], values)
        files.finish()
    return {"videos": len(source), "skipped": skipped} | writing.counts_of_all()


def _check_files(format: str, dtype: str) -> None:
    """Raises ValueError or ConfigError where no such files can be written."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    require(
        format == "npz" or processes.is_single_process(),
        f"config.extract.format={format!r} is written by one process alone: take npz, or one process",
    )


def output_names(source) -> list[str]:
    """A name for every record of a source, no two alike: its key, and `~2`, `~3` ... where records share one."""
    names = {}
    for number in range(len(source)):
        key = name = source.key(number)
        again = 1
        while name in names:
            again += 1
            name = f"{key}~{again}"
        names[name] = number
    return list(names)


def _batches(loader: WindowLoader, size: int, writing: "_Writing") -> Iterator[dict[str, np.ndarray]]:
    """{video uint8 [size, 1, T, H0, W0, 3], number int64 [size]} of the windows that come; number is -1 where the last is filled up."""
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
    """One whose windows are coming."""

    label: int
    windows: Windows
    rows: int = 0
    file: GrowingFile | None = None


class _Writing:
    """Takes features in the order of the windows of each video, and makes files of them. Nothing half-written stays."""

    def __init__(self, files: NpzFiles | RecordFiles, names: list[str], bad: BadFiles, dtype: np.dtype, bar: tqdm):
        self._files, self._names, self._bad, self._dtype, self._bar = files, names, bad, dtype, bar
        self._videos: dict[int, _Video] = {}
        self.written = self.unreadable = self.windows = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in list(self._videos):
            self._drop(number)

    def open(self, event: Opened) -> None:
        self._videos[event.number] = _Video(event.label, event.windows)

    def fail(self, event: Failed) -> None:
        """Raises: BadDataError where too many failed."""
        self._drop(event.number)
        self.unreadable += 1
        self._bar.update()
        self._bad.update(pack_failures([(event.name, event.reason)])[None])

    def take(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """numbers: int64 [b], the records that values [b, ...] are of, -1 none."""
        for number in dict.fromkeys(numbers.tolist()):
            if number in self._videos:  # neither filling nor of a video that failed since
                self._append(number, values[numbers == number])

    def _append(self, number, values):
        video, name = self._videos[number], self._names[number]
        if video.file is None:  # not before: single windows would keep a batch of files open
            video.file = self._files.begin(name, (len(video.windows), *values.shape[1:]), self._dtype)
        video.file.append(self._cast(name, values))
        video.rows += len(values)
        if video.rows == len(video.windows):
            label = np.int32(video.label)
            video.file.finish(start_s=video.windows.start_s, end_s=video.windows.end_s, label=label, path=name)
            self._files.add(name, video.file)
            del self._videos[number]
            self.written += 1
            self.windows += video.rows
            self._bar.update()

    def counts_of_all(self) -> dict[str, int]:
        """What all processes did; their lists of bad files become one. Raises: BadDataError where too many are on it."""
        names = ("written", "unreadable", "windows")
        every = processes.allgather_json([*(getattr(self, name) for name in names), self._bad.pairs])
        for *_, pairs in every:
            self._bad.add([tuple(pair) for pair in pairs])
        return dict(zip(names, map(sum, list(zip(*every))[: len(names)])))

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
