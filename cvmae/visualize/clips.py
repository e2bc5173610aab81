"""Clips and features of a few records, evenly spread over a split."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import unpack_failures
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.data.sources import Source
from cvmae.data.subset import Subset
from cvmae.evaluation.features import Features, extract
from cvmae.evaluation.multi_view import cropped
from cvmae.parallel import processes


@dataclasses.dataclass(frozen=True)
class Clips:
    """The middle clips of n records.

    Attributes:
      pixels: float32 [n, T, H, W, 3] in 0..1, center crops.
      labels: int32 [n], -1 unlabeled.
      records: int64 [n], their indices in the source.
      names: n keys, see `sources.Source.key`.
    """

    pixels: np.ndarray
    labels: np.ndarray
    records: np.ndarray
    names: tuple[str, ...]

    def __len__(self):
        return len(self.records)


def spread(total: int, count: int) -> np.ndarray:
    """Returns `count` indices below `total`, evenly spaced from first to last, int64, ascending; all of them if there are fewer."""
    if count >= total:
        return np.arange(total)
    return np.round(np.linspace(0, total - 1, count)).astype(np.int64) if count > 1 else np.zeros(count, np.int64)


def read_clips(config, source: Source, records) -> Clips:
    """Reads the middle clip of each record, as the encoder sees it before normalization.

    Records that cannot be read are left out and named on stderr.

    Raises:
      ConfigError: a record does not exist, or none could be read.
    """
    records = np.asarray(records, np.int64)
    if not len(records) or records.min() < 0 or records.max() >= len(source):
        raise ConfigError(f"records {records.tolist()} of {len(source)} videos: give indices from 0 to {len(source) - 1}")
    pixels, labels, kept = [], [], []
    with make_view_loader(config, Subset(source, records), 1, TestViews()) as loader:
        for batch in loader:
            for name, reason in unpack_failures(batch["failures"]):
                processes.log_once(f"left out of the figures: {name}, {reason}")
            if batch["valid"][0]:
                pixels.append(np.asarray(cropped(jnp.asarray(batch["video"]), config)[0]))
                labels.append(batch["label"][0])
                kept.append(records[batch["index"][0]])
    if not kept:
        raise ConfigError(f"none of {len(records)} chosen videos can be read: see the reasons above, or choose others")
    return Clips(np.stack(pixels), np.array(labels, np.int32), np.array(kept), tuple(source.key(int(i)) for i in kept))


def clip_features(config, params, source: Source, records, encode: Callable) -> Features:
    """Extracts pooled features of the middle clips of records; unreadable ones are left out, `index` holds the records' indices.

    Args:
      config: the config, with the encoder and the clips.
      params: parameters of the video encoder.
      source: see `data.sources`.
      records: int [n], ascending.
      encode: from `features.make_encode`.

    Raises:
      ConfigError: `records` is empty, or none could be read.
    """
    records = np.asarray(records)
    if not len(records):
        raise ConfigError("there is no video to extract features from")
    features = extract(config, params, Subset(source, records), encode=encode)
    if not len(features.index):
        raise ConfigError(f"none of {len(records)} chosen videos can be read: see data.timeout_s, or choose others")
    return dataclasses.replace(features, index=records[features.index])
