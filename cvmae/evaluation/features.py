"""Features of clips from a frozen video encoder, nothing masked."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator

import einops
import jax
import numpy as np

from cvmae import augment
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.evaluation.multi_view import flat_crops, mean_over_crops
from cvmae.models.backbone import Backbone
from cvmae.models.build import build_encoder, video_grid
from cvmae.models.heads import pool
from cvmae.models.patches import Grid
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement

TOKENS = ("pooled", "slots", "all")
COLUMNS = ("values", "labels", "index", "clip")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """What of an encoder is a feature.

    Attributes:
      layer: -1, the encoder's output; or the number of a block, from 0, for that block's output (the cls token left out).
      tokens: `pooled`, the mean over tokens, [D]; `slots`, the mean over the positions of each slot, [T', D]; `all`, [N, D].
      norm: whether the output passes the encoder's last layer norm, where it has one; blocks' outputs never do.
    """

    layer: int = -1
    tokens: str = "pooled"
    norm: bool = True

    def __post_init__(self):
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens is {self.tokens!r}; expected one of {', '.join(TOKENS)}")

    def block(self, depth: int) -> int | None:
        """The block whose output this is, of `depth`; None: the encoder's output. Raises: ValueError if there is no such block."""
        if not -1 <= self.layer < depth:
            raise ValueError(f"layer={self.layer}: the encoder has {depth} blocks; give -1 (its output) or 0 to {depth - 1}")
        if self.layer == -1:
            return None if self.norm else depth - 1
        return self.layer


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of n clips.

    Attributes:
      values: float32 [n, ...], the rest as `FeatureSpec` says.
      labels: int32 [n], -1 unlabeled.
      index: int64 [n], numbers of the records.
      clip: int32 [n], which clip of its record; None where every record has one.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    clip: np.ndarray | None = None


def encode_tokens(encoder: Backbone, params, clips, spec: FeatureSpec):
    """Features float32 [B, ...] of normalized clips [B, T, H, W, 3]."""
    block = spec.block(encoder.depth)
    if block is None:
        tokens = encoder.apply({"params": params}, clips).tokens
    else:
        _, kept = encoder.apply({"params": params}, clips, mutable=["intermediates"])
        tokens = kept["intermediates"]["blocks"]["hidden"][block]
        tokens = tokens[:, 1:] if encoder.cls_token else tokens
    return reduce_tokens(tokens, encoder.grid, spec.tokens)


def reduce_tokens(tokens, grid: Grid, kind: str):
    """Tokens [B, N, D] of a whole clip as float32 [B, D], [B, T', D] or [B, N, D]; see `FeatureSpec`."""
    if kind == "pooled":
        return pool(tokens)
    tokens = tokens.astype(np.float32)
    return tokens if kind == "all" else einops.reduce(tokens, "b (t s) d -> b t d", "mean", t=grid.time_patches)


def encode_pixels(config, encoder, params, clips, spec: FeatureSpec = FeatureSpec()):
    """Features float32 [B, ...] of clips [B, T, H, W, 3] in 0..1."""
    return encode_tokens(encoder, params, augment.normalize(clips, config.augment.mean, config.augment.std), spec)


def make_encode(config, spec: FeatureSpec = FeatureSpec(), placement: Placement = HOST) -> Callable:
    """A jitted (video encoder's parameters, uint8 [b, crops, T, H0, W0, 3]) -> float32 [b, ...], the mean over crops.

    Raises:
      ValueError: the encoder has no such layer.
    """
    encoder = build_encoder(config, config.video_branch, video_grid(config), rules=placement.rules(config))
    spec.block(encoder.depth)

    @jax.jit
    def encode(params, video):
        return mean_over_crops(encode_tokens(encoder, params, flat_crops(video, config), spec), video.shape[1])

    return encode


def encoded_batches(encode: Callable, batches: Iterable[dict], placement: Placement = HOST) -> Iterator[tuple[np.ndarray, dict]]:
    """Yields for every batch the features of its videos, float32 [b, ...] on the host, and the batch without its videos.

    The next batch is read while the devices work on this one. Clips are only ever held for the two of them.

    Args:
      encode: video on the devices -> features.
      batches: dicts with `video`.
      placement: of batches on the devices.
    """
    ahead = None
    for batch in batches:
        features = encode(placement.put({"video": batch["video"]})["video"])
        rest = {name: np.array(column) for name, column in batch.items() if name != "video"}
        if ahead is not None:
            yield processes.to_host(ahead[0]), ahead[1]
        ahead = features, rest
    if ahead is not None:
        yield processes.to_host(ahead[0]), ahead[1]


def feature_rows(
    config,
    encode: Callable,
    source,
    batch_size: int,
    views: TestViews,
    *,
    placement: Placement = HOST,
    bad_files: BadFiles | None = None,
    start_row: int = 0,
) -> Generator[dict[str, np.ndarray]]:
    """Yields batches of `COLUMNS` and `valid`, one row for every row of `data.clip_views.make_view_loader`, from `start_row` on.

    Args:
      config: says how clips are cut.
      encode: video on the devices -> features.
      source: see `data.sources`.
      batch_size: rows a pass; over a mesh, a multiple of the number of devices.
      views: clips and crops of every record.
      placement: see `encoded_batches`.
      bad_files: the list of videos that cannot be read; None keeps none.
      start_row: where to begin.
    """
    with make_view_loader(config, source, batch_size, views, start_row) as loader:
        for values, batch in encoded_batches(encode, loader, placement):
            if bad_files is not None:
                bad_files.update(batch["failures"])
            yield {"values": values, "labels": batch["label"]} | {name: batch[name] for name in ("index", "clip", "valid")}


def extract(config, params, source, limit: int = 0, batch_size: int = 0, encode: Callable | None = None) -> Features:
    """Pooled features of the first `limit` records of a source (0: all); records that cannot be read are left out.

    Args:
      config: says the encoder and the clips.
      params: of the video encoder.
      source: see `data.sources`.
      limit: how many records.
      batch_size: clips a pass; 0 takes the config's.
      encode: from `make_encode` of the same config, where several sources share one.
    """
    encode, limit, found = encode or make_encode(config), limit or len(source), []
    batches = feature_rows(config, lambda video: encode(params, video), source, batch_size or config.batch_size, TestViews())
    with contextlib.closing(batches):
        for batch in batches:
            keep = batch["valid"] & (batch["index"] < limit)
            found.append([batch[name][keep] for name in COLUMNS])
            if batch["index"][-1] + 1 >= limit:
                break
    return Features(*(np.concatenate(column) for column in zip(*found)))


def mean_over_clips(features: Features) -> Features:
    """One row a record, the mean over its clips, in the order of the records' numbers; `clip` is None."""
    index, first, place = np.unique(features.index, return_index=True, return_inverse=True)
    total = np.zeros((len(index), *features.values.shape[1:]), np.float64)
    np.add.at(total, place, features.values)
    count = np.bincount(place, minlength=len(index)).reshape(-1, *[1] * (total.ndim - 1))
    return Features((total / count).astype(np.float32), features.labels[first], index)
