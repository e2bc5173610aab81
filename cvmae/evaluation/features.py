"""Features of unmasked clips from a frozen video encoder."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import einops
import jax
import jax.numpy as jnp
import numpy as np

from cvmae import augment
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.evaluation.multi_view import flat_crops, mean_over_crops
from cvmae.interop.pretrained import vit_of
from cvmae.models.backbone import Backbone
from cvmae.models.build import build_encoder, video_grid
from cvmae.models.heads import pool
from cvmae.models.patches import Grid
from cvmae.models.vit import layer_norm
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import advance, evaluation_bar

TOKENS = ("pooled", "slots", "all")
COLUMNS = ("values", "labels", "index", "clip")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """The choice of features of an encoder.

    Attributes:
      layer: -1, the encoder's output; or the index of a block, from 0, for that block's output without the cls token.
      tokens: `pooled`, the mean over tokens, [D]; `slots`, the mean over space at each temporal position, [T', D]; `all`, [N, D].
      norm: True to apply the encoder's final layer norm, if it has one, to its output; outputs of blocks are never normalized.
    """

    layer: int = -1
    tokens: str = "pooled"
    norm: bool = True

    def __post_init__(self):
        if self.tokens not in TOKENS:
            raise ValueError(f"tokens is {self.tokens!r}; expected one of {', '.join(TOKENS)}")

    def block(self, depth: int) -> int | None:
        """Returns the index of the block, of `depth`; None for the encoder's output. Raises: ValueError if there is no such block."""
        if not -1 <= self.layer < depth:
            raise ValueError(f"layer={self.layer}: the encoder has {depth} blocks; give -1 (its output) or 0 to {depth - 1}")
        if self.layer == -1:
            return None if self.norm else depth - 1
        return self.layer


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of n clips.

    Attributes:
      values: float32 [n, ...]; see `FeatureSpec.tokens` for the shape of a row.
      labels: int32 [n], -1 unlabeled.
      index: int64 [n], indices of the records.
      clip: int32 [n], index of the clip within its record; None if every record has one clip.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    clip: np.ndarray | None = None


def encode_tokens(encoder: Backbone, params, clips, spec: FeatureSpec):
    """Computes features float32 [B, ...] of normalized clips [B, T, H, W, 3]. Raises: ValueError, see `_block_of`."""
    block = _block_of(encoder, spec)
    if block is None:
        tokens = encoder.apply({"params": params}, clips).tokens
    else:
        _, captured = encoder.apply({"params": params}, clips, mutable=["intermediates"])
        tokens = captured["intermediates"]["blocks"]["hidden"][block]
        tokens = tokens[:, tokens.shape[1] - encoder.grid.tokens :]  # without cls and registers, which stand before them
    return reduce_tokens(tokens, encoder.grid, spec.tokens)


def _block_of(encoder: Backbone, spec: FeatureSpec) -> int | None:
    """Returns the block whose output is read; None for the encoder's. Raises: ValueError, there is no such block, or it is no ViT's."""
    block = spec.block(encoder.depth)
    if block is not None:
        vit_of(encoder, f"layer={spec.layer}, norm={spec.norm} reads a block, and the model")
    return block


def block_tokens(encoder: Backbone, params, clips, layers: Sequence[int]):
    """Returns tokens of several blocks, each through the encoder's last norm if it has one, block after block: [B, blocks * N, D].

    The tokens of the last block alone are the encoder's output. As V-JEPA 2's probes on Diving48 and Jester read them.

    Args:
      encoder: of any kind for its output, layers (-1,); a ViT for others.
      params: its parameters.
      clips: normalized, [B, T, H, W, 3].
      layers: indices of blocks, from 0, or from -1 backwards.

    Raises:
      ValueError: the encoder is no ViT, or has no such block.
    """
    if tuple(layers) == (-1,):
        return encoder.apply({"params": params}, clips).tokens
    vit = vit_of(encoder, f"probe.layers={tuple(layers)} reads blocks, and the model")
    if outside := [layer for layer in layers if not -vit.depth <= layer < vit.depth]:
        raise ValueError(f"layer {outside[0]}: the encoder has {vit.depth} blocks; give {-vit.depth} to {vit.depth - 1}")
    _, captured = vit.apply({"params": params}, clips, mutable=["intermediates"])
    hidden = captured["intermediates"]["blocks"]["hidden"]
    tokens = jnp.stack([hidden[layer] for layer in layers], axis=1)
    tokens = tokens[:, :, vit.prefix :]
    if vit.final_norm:
        tokens = layer_norm(vit.trunk.eps, vit.trunk.dtype, "norm").apply({"params": params["norm"]}, tokens)
    return einops.rearrange(tokens, "b l n d -> b (l n) d")


def reduce_tokens(tokens, grid: Grid, kind: str):
    """Reduces tokens [B, N, D] of unmasked clips to float32 [B, D], [B, T', D] or [B, N, D]; see `FeatureSpec.tokens`."""
    if kind == "pooled":
        return pool(tokens)
    tokens = tokens.astype(np.float32)
    return tokens if kind == "all" else einops.reduce(tokens, "b (t s) d -> b t d", "mean", t=grid.time_patches)


def encode_pixels(config, encoder, params, clips, spec: FeatureSpec = FeatureSpec()):
    """Computes features float32 [B, ...] of clips [B, T, H, W, 3] in 0..1."""
    return encode_tokens(encoder, params, augment.normalize(clips, config.augment.mean, config.augment.std), spec)


def make_encode(config, spec: FeatureSpec = FeatureSpec(), placement: Placement = HOST) -> Callable:
    """Makes a jitted function (encoder parameters, video uint8 [b, crops, T, H0, W0, 3]) -> features float32 [b, ...].

    Features are averaged over crops.

    Raises:
      ValueError: the encoder has no such layer.
    """
    encoder = build_encoder(config, config.video_branch, video_grid(config), rules=placement.rules(config))
    _block_of(encoder, spec)

    @jax.jit
    def encode(params, video):
        return mean_over_crops(encode_tokens(encoder, params, flat_crops(video, config), spec), video.shape[1])

    return encode


def encoded_batches(encode: Callable, batches: Iterable[dict], placement: Placement = HOST) -> Iterator[tuple[np.ndarray, dict]]:
    """Yields, for every batch, the features of its videos, float32 [b, ...] on the host, and the batch without its videos.

    The next batch is read while the devices compute the current one; at most these two are in memory.

    Args:
      encode: function from video on the devices to features.
      batches: dicts with `video`.
      placement: the placement of batches on devices.
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
      config: the config, with the sampling of clips.
      encode: function from video on the devices to features.
      source: see `data.sources`.
      batch_size: rows per batch; over a mesh, a multiple of the number of devices.
      views: clips and crops per record.
      placement: see `encoded_batches`.
      bad_files: collects unreadable videos; None for no list.
      start_row: the first row.
    """
    with (
        make_view_loader(config, source, batch_size, views, start_row) as loader,
        evaluation_bar(len(source) * views.clips - start_row, "features") as bar,
    ):
        for values, batch in encoded_batches(encode, loader, placement):
            advance(bar, len(values))
            if bad_files is not None:
                bad_files.update(batch["failures"])
            yield {"values": values, "labels": batch["label"]} | {name: batch[name] for name in ("index", "clip", "valid")}


def extract(config, params, source, limit: int = 0, batch_size: int = 0, encode: Callable | None = None) -> Features:
    """Extracts pooled features of the first `limit` records of a source; unreadable records are left out.

    Args:
      config: the config, with the encoder and the clips.
      params: parameters of the video encoder.
      source: see `data.sources`.
      limit: the number of records; 0 takes all.
      batch_size: clips per batch; 0 takes the config's.
      encode: from `make_encode` of the same config, to share one compiled function between sources.
    """
    encode, limit, columns = encode or make_encode(config), limit or len(source), []
    batches = feature_rows(config, lambda video: encode(params, video), source, batch_size or config.batch_size, TestViews())
    with contextlib.closing(batches):
        for batch in batches:
            keep = batch["valid"] & (batch["index"] < limit)
            columns.append([batch[name][keep] for name in COLUMNS])
            if batch["index"][-1] + 1 >= limit:
                break
    return Features(*(np.concatenate(column) for column in zip(*columns)))


def mean_over_clips(features: Features) -> Features:
    """Averages features over the clips of each record: one row per record, ordered by its index, without `clip`."""
    index, first, row = np.unique(features.index, return_index=True, return_inverse=True)
    total = np.zeros((len(index), *features.values.shape[1:]), np.float64)
    np.add.at(total, row, features.values)
    count = np.bincount(row, minlength=len(index)).reshape(-1, *[1] * (total.ndim - 1))
    return Features((total / count).astype(np.float32), features.labels[first], index)
