"""A few records of a split, spread over it: their clips, and a source of them alone."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import unpack_failures
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.data.sources import Source, make_source
from cvmae.data.subset import Subset
from cvmae.evaluation.features import Features, extract
from cvmae.evaluation.multi_view import cropped
from cvmae.parallel import processes


@dataclasses.dataclass(frozen=True)
class Clips:
    """The middle clips of n records.

    Attributes:
      pixels: float32 [n, T, H, W, 3] in 0..1, the center of each frame.
      labels: int32 [n], -1 unlabeled.
      records: int64 [n], numbers in their source.
      names: n, see `sources.Source.key`.
    """

    pixels: np.ndarray
    labels: np.ndarray
    records: np.ndarray
    names: tuple[str, ...]

    def __len__(self):
        return len(self.records)


def open_split(config, field: str) -> Source:
    """The source of the split that config.data.FIELD names."""
    return make_source(config.data, config.data[field])


def spread(total: int, count: int) -> np.ndarray:
    """`count` numbers below `total`, evenly spread from the first to the last, int64, ascending; all where there are fewer."""
    if count >= total:
        return np.arange(total)
    return np.round(np.linspace(0, total - 1, count)).astype(np.int64) if count > 1 else np.zeros(count, np.int64)


def read_clips(config, source: Source, records) -> Clips:
    """The middle clip of each of these records, as the encoder sees it but for the normalization.

    Records that cannot be read are left out, and a line on stderr names them.

    Raises:
      ConfigError: there is no such record, or none could be read.
    """
    records = np.asarray(records, np.int64)
    if not len(records) or records.min() < 0 or records.max() >= len(source):
        raise ConfigError(f"records {records.tolist()} of {len(source)} videos: give numbers from 0 to {len(source) - 1}")
    pixels, labels, kept = [], [], []
    with make_view_loader(config, Subset(source, records), 1, TestViews()) as loader:
        for batch in loader:
            for name, reason in unpack_failures(batch["failures"]):
                processes.log_once(f"left out of the pictures: {name}, {reason}")
            if batch["valid"][0]:
                pixels.append(np.asarray(cropped(jnp.asarray(batch["video"]), config)[0]))
                labels.append(batch["label"][0])
                kept.append(records[batch["index"][0]])
    if not kept:
        raise ConfigError(f"none of {len(records)} chosen videos can be read: see the reasons above, or choose others")
    return Clips(np.stack(pixels), np.array(labels, np.int32), np.array(kept), tuple(source.key(int(i)) for i in kept))


def features_of(config, params, source: Source, records, encode: Callable) -> Features:
    """Pooled features of the middle clips of these records, those that cannot be read left out; `index` are the records' numbers.

    Args:
      config: says the encoder and the clips.
      params: of the video encoder.
      source: see `data.sources`.
      records: int [n], ascending.
      encode: from `features.make_encode`.

    Raises:
      ConfigError: there is no record, or none could be read.
    """
    records = np.asarray(records)
    if not len(records):
        raise ConfigError("there is no video to make features of")
    found = extract(config, params, Subset(source, records), encode=encode)
    if not len(found.index):
        raise ConfigError(f"none of {len(records)} chosen videos can be read: see data.timeout_s, or choose others")
    return dataclasses.replace(found, index=records[found.index])
