"""Multi-view test: class probabilities of every video, averaged over clips and crops; each video counts exactly once."""

import dataclasses
import math
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np

from cvmae import augment
from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.evaluation.multi_label import has_label
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import advance, evaluation_bar


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for all n videos of a source, in order.

    Attributes:
      probabilities: float32 [n, ...], the mean over a video's crops and readable clips; zeros without a readable clip.
      labels: int32 [n], -1 unlabeled or unreadable; or of clips with several labels int8 [n, C], all -1 for these.
      readable: bool [n], True with at least one readable clip.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    readable: np.ndarray

    @property
    def labeled(self) -> np.ndarray:
        """True for the videos that have a label, bool [n]."""
        return np.asarray(has_label(self.labels) if self.labels.ndim == 2 else self.labels >= 0)


def cropped(video, config):
    """Center-crops each crop to config.augment.size: uint8 [b, crops, T, H0, W0, 3] -> float32 [b·crops, T, H, W, 3] in 0..1."""
    clips = einops.rearrange(video, "b k ... -> (b k) ...")
    return jax.vmap(lambda clip: augment.center_crop(clip.astype(jnp.float32) / 255, config.augment.size))(clips)


def flat_crops(video, config):
    """Crops as `cropped` does, and normalizes."""
    return augment.normalize(cropped(video, config), config.augment.mean, config.augment.std)


def mean_over_crops(probabilities, crops: int):
    """Averages over crops: [b·crops, ...] -> [b, ...]."""
    return einops.reduce(probabilities, "(b k) ... -> b ...", "mean", k=crops)


def whole_batch(size: int) -> int:
    """Rounds a batch size up to a multiple of the number of devices."""
    return math.ceil(size / jax.device_count()) * jax.device_count()


def predict_views(
    predict: Callable,
    config,
    source,
    views: TestViews,
    placement: Placement = HOST,
    bad_files: BadFiles | None = None,
) -> Predictions:
    """Runs the multi-view test. Each process reads its part of every batch; all return the predictions of every video.

    Args:
      predict: function {"video": uint8 [b, crops, T, H0, W0, 3] on the devices} -> float32 [b, ...], averaged over crops.
      config: the config, with the sampling of clips and the batch size, which does not change the result.
      source: the videos.
      views: clips and crops per video.
      placement: the placement of batches on devices, and the part of each batch that this process reads.
      bad_files: collects unreadable videos; None for no list.

    Raises:
      ConfigError: the source has no record.
    """
    sums: np.ndarray | None = None
    counts = np.zeros(len(source), np.int64)
    labels = np.full(len(source), -1, np.int32)
    batch_size = whole_batch(max(1, config.batch_size // views.crops))
    part = {"process_index": placement.shard.index, "process_count": placement.shard.count}
    with (
        make_view_loader(config, source, batch_size, views, **part) as loader,
        evaluation_bar(len(source) * views.clips, "test") as bar,
    ):
        for batch in loader:
            outputs = predict(placement.put({"video": batch.pop("video")}))
            batch = placement.gather_rows(batch)
            if bad_files is not None:
                bad_files.update(batch["failures"])
            keep, index = batch["valid"], batch["index"]
            values = np.asarray(processes.to_host(outputs), np.float64)
            if sums is None:
                sums = np.zeros((len(source), *values.shape[1:]))
            np.add.at(sums, index[keep], values[keep])
            np.add.at(counts, index[keep], 1)
            labels[index[keep]] = batch["label"][keep]
            advance(bar, len(keep))
    if sums is None:
        raise ConfigError("there is no video to test")
    mean = sums / np.maximum(counts, 1).reshape(-1, *[1] * (sums.ndim - 1))
    return Predictions(mean.astype(np.float32), labels, counts > 0)
