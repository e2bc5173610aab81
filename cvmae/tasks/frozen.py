"""Tasks that train nothing: nearest neighbors, retrieval and extraction, on a frozen encoder; features are kept in the workdir."""

import pathlib

import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.sources import make_source
from cvmae.evaluation.extract import extract_features
from cvmae.evaluation.feature_cache import cached_features
from cvmae.evaluation.features import Features, FeatureSpec, make_encode, mean_over_clips
from cvmae.evaluation.knn import knn_report
from cvmae.evaluation.retrieval import same_class, same_video
from cvmae.parallel import processes


def both_splits(config, params, folder, put) -> tuple[Features, Features]:
    """Features of every clip of config.data.split, the gallery, and config.data.test_split, the queries.

    Args:
      config: of a task with `features`.
      params: of the video encoder.
      folder: the workdir, where they are kept.
      put: makes arrays on the devices of a dict of arrays on the host.
    """
    c, folder = config.features, pathlib.Path(folder)
    spec, plan = FeatureSpec(c.layer), TestViews(c.clips, c.crops)
    encode, found = make_encode(config, spec), []
    for field in ("split", "test_split"):
        source = make_source(config.data, config.data[field])
        place = folder / "features" / field
        bad = BadFiles(place, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
        found.append(cached_features(place, config, params, source, plan, spec, put=put, failed=bad.update, encode=encode))
        for pairs in processes.allgather_json(bad.pairs):
            bad.add([tuple(pair) for pair in pairs])
    return tuple(found)


def knn(config, params, folder, put) -> dict[str, float]:
    """Top-1 and top-5 of a vote of the nearest training clips on the test clips, shares in 0..1. Arguments: see `both_splits`."""
    gallery, queries = map(mean_over_clips, both_splits(config, params, folder, put))
    check_labeled(config, gallery, queries)
    classes = int(max(gallery.labels.max(), queries.labels.max())) + 1
    c = config.knn
    return knn_report(gallery.values, gallery.labels, queries.values, queries.labels, classes, c.neighbours, c.temperature)


def retrieval(config, params, folder, put) -> dict[str, float]:
    """How test clips find training clips of their class, and, with two clips a video or more, the other clip of their video.

    Arguments: see `both_splits`. Returns: `same_class/NAME` where both have labels, and `same_video/NAME`.
    """
    every = both_splits(config, params, folder, put)
    gallery, queries = map(mean_over_clips, every)
    found = {}
    if config.features.clips > 1:
        found |= {f"same_video/{name}": value for name, value in same_video(*first_two_clips(every[1])).items()}
    if (gallery.labels >= 0).any() and (queries.labels >= 0).any():
        try:
            names = same_class(queries.values, queries.labels, gallery.values, gallery.labels)
        except ValueError as error:  # the two splits share no class
            raise ConfigError(f"config.data.split and config.data.test_split: {error}") from error
        found |= {f"same_class/{name}": value for name, value in names.items()}
    if not found:
        check_labeled(config, gallery, queries)
    return found


def extract(config, params, folder, put) -> dict[str, float]:
    """One file of features for each video of config.data.split, in `folder`/features; see `evaluation.extract`."""
    c = config.extract
    source, place = make_source(config.data, config.data.split), pathlib.Path(folder) / "features"
    spec, how = FeatureSpec(c.layer, c.tokens), {"window_stride": c.window_stride, "format": c.format, "dtype": c.dtype}
    return extract_features(config, params, source, place, spec, put=put, **how)


def first_two_clips(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second clip of every video that has both, two float32 [n, D] whose rows belong together."""
    first, second = (features.clip == number for number in (0, 1))
    both = np.intersect1d(features.index[first], features.index[second])
    return tuple(features.values[mask][np.isin(features.index[mask], both)] for mask in (first, second))


def check_labeled(config, gallery: Features, queries: Features) -> None:
    """Raises ConfigError where a split has no label to compare."""
    for field, features in (("split", gallery), ("test_split", queries)):
        if not (features.labels >= 0).any():
            raise ConfigError(
                f"config.data.{field}={config.data[field]!r}: no clip has a label, which task={config.task} compares; "
                "give labels, or task=retrieval with config.features.clips=2, which needs none"
            )
