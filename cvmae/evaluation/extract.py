"""Extraction of the features of videos of any length, window by window, into one file per video."""

from collections.abc import Iterator

import jax
import numpy as np

from cvmae.config import require
from cvmae.data.bad_files import BadFiles
from cvmae.data.labels import label_sets_of
from cvmae.data.pipeline import clip_spec
from cvmae.data.records import why_outside
from cvmae.data.stamps import Stamps
from cvmae.data.windows import Opened, Window, WindowLoader
from cvmae.evaluation import feature_origins
from cvmae.evaluation.feature_cache import process_slice
from cvmae.evaluation.feature_files import NpzFiles
from cvmae.evaluation.feature_folder import INDEX, write_index
from cvmae.evaluation.feature_identity import IDENTITY, digest, encoder_identity, open_cache
from cvmae.evaluation.feature_sequences import SUMMARY, NpyFiles, check_names, summary
from cvmae.evaluation.feature_shards import RecordFiles
from cvmae.evaluation.feature_writing import Writing
from cvmae.evaluation.features import FeatureSpec, encoded_batches, make_encode
from cvmae.evaluation.multi_view import whole_batch
from cvmae.files import write_json
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import evaluation_bar
from cvmae.storage.path import as_path

DTYPES = ("float32", "float16")
FORMATS: dict[str, type[NpzFiles] | type[RecordFiles]] = {"npz": NpzFiles, "array_record": RecordFiles, "npy": NpyFiles}


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
    """Writes the features of every video of a source that `folder` lacks, or has of another file, part or label.

    Windows are those of `data.windows.plan_windows`, files those of `feature_files`, and of `feature_sequences` with format npy. Windows of several videos share a batch, and
    the composition of batches depends on the timing of the decoding threads, so runs may differ in the last bit. Unreadable
    videos, and those whose names no file can have, are listed in bad_files.csv and have no file; the next run tries them again.
    Files of videos that the source no longer has stay; index.csv lists the videos of the source that have features.
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
      {videos: in the source, written: by this run and new, rewritten: by this run in place of others, skipped: there before, unreadable,
      windows and bytes: of all that the source has in the folder now, not_in_source: videos with features there that the source lacks}.

    Raises:
      BadDataError: the fraction of unreadable videos exceeds config.data.max_bad_fraction.
      ConfigError: the folder holds features of other settings, a name leads out of it, or several processes would write the same shards.
      ValueError: an argument is wrong, or a value is too large for float16.
    """
    names = output_names(source)
    _check_files(format, dtype, spec, names)
    encode = make_encode(config, spec, placement)
    encoder = _claim_folder(config, encode, params, spec, folder, (window_stride, format, dtype))
    files = FORMATS[format](as_path(folder))  # which may set damaged files aside, of the claimed folder only
    stamps = Stamps(source)
    there, outdated = _look(files, folder, names, source, stamps, encoder)  # before any write, so that all processes see the same
    todo = process_slice([number for number in range(len(names)) if number not in there])
    bad = BadFiles(folder, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
    size = whole_batch(max(1, config.batch_size // jax.process_count()))
    loader = WindowLoader(config, source, todo, size, window_stride, stamps)
    with loader, evaluation_bar(len(todo), "features", "video") as bar:
        with Writing(files, names, bad, np.dtype(dtype), bar, label_sets_of(source), outdated, encoder) as writing:
            for values, batch in encoded_batches(lambda video: encode(params, video), _batches(loader, size, writing), placement):
                writing.take(batch["number"], values)
        files.finish()
    written, failed = writing.of_all_processes()
    again = len(outdated & written.keys())
    counts = {"written": len(written) - again, "rewritten": again, "skipped": len(there), "unreadable": failed}
    return {"videos": len(source)} | counts | _describe_folder(files, folder, names, there | written)


def _look(files, folder, names: list[str], source, stamps: Stamps, encoder: str) -> tuple[dict[int, tuple[int, str]], set[int]]:
    """Returns the windows and stamps of the videos whose features stay, by their number, and the numbers of those with features that do not."""
    rows = feature_origins.look(files.stored, names, source, stamps, encoder)
    processes.log_once(*feature_origins.notes(folder, names, rows))
    there = {number: (row.windows, row.stamp) for number, row in enumerate(rows) if row.is_there}
    outdated = {number for number, row in enumerate(rows) if row.state in feature_origins.REASONS}
    if outdated or (as_path(folder) / INDEX).exists():
        _list_videos(files, folder, names, there)  # without those whose features are outdated, should this run be interrupted
    return there, outdated


def _list_videos(files, folder, names: list[str], there: dict[int, tuple[int, str]]) -> list[str]:
    """Writes index.csv, in the main process, and returns the files of the videos in it; `there`: see `_look`."""
    rows = [(names[number], files.file_of(names[number]), *there[number]) for number in sorted(there)]
    rows = [row for row in rows if row[1]]
    if processes.is_main_process():
        write_index(as_path(folder), rows)
    return [file for _, file, *_ in rows]


def _describe_folder(files, folder, names: list[str], there: dict[int, tuple[int, str]]) -> dict[str, int]:
    """Writes index.csv, notes the files of videos that the source lacks, and returns the numbers of the folder as a whole."""
    own, counts = set(_list_videos(files, folder, names, there)), []
    if processes.is_main_process():
        sizes = files.files()
        others = _without_caches(folder, files.others(names, sizes))
        if others:
            processes.log_once(
                f"{folder} also has features of videos that are not in this split of the data (any more): {len(others):,}, "
                f"{feature_origins.such_as(others)}; they stay there, and {INDEX} and cvmae.FeatureFolder leave them out"
            )
        counts = [sum(size for file, size in sizes.items() if file in own), len(others)]
    total, others_count = processes.allgather_json(counts)[0]
    return {"windows": sum(windows for windows, _ in there.values()), "bytes": total, "not_in_source": others_count}


def _without_caches(folder, names: list[str]) -> list[str]:
    """Returns the files that are not of a cache, which task=knn and task=retrieval keep in folders of the same workdir."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    caches = tuple(f"{top}/" for top in tops if (as_path(folder) / top / IDENTITY).exists())
    return [name for name in names if not name.startswith(caches)]


def _claim_folder(config, encode, params, spec: FeatureSpec, folder, settings: tuple[int, str, str]) -> str:
    """Makes the folder that of these features, writes features.json for npy, and returns the hash of what makes them.

    settings: window stride, format and dtype.
    """
    identity = encoder_identity(config, params, spec) | {"windows": list(settings)}
    open_cache(folder, identity, config=config)
    window_stride, format, _ = settings
    if format == "npy" and processes.is_main_process():
        clip = jax.ShapeDtypeStruct((1, 1, config.data.num_frames, *config.data.frame_size, 3), np.uint8)
        width = jax.eval_shape(encode, params, clip).shape[-1]
        write_json(as_path(folder) / SUMMARY, summary(clip_spec(config), window_stride, width))
    return digest(identity)


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
    for name in names:
        require(
            not (why := why_outside(name)),
            f"a video of the data is called {name!r}, which {why}, and features are files of these names below the workdir: give it a "
            "relative path without such parts",
        )


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


def _batches(loader: WindowLoader, size: int, writing: Writing) -> Iterator[dict[str, np.ndarray]]:
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
