"""Pooled features of whole clips from a video encoder, nothing masked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cvmae import augment
from cvmae.data.pipeline import make_eval_loader
from cvmae.models.build import build_encoder, video_grid
from cvmae.models.heads import pool


@dataclasses.dataclass(frozen=True)
class Features:
    """Features float32 [n, D] of n clips, with labels int32 [n] (-1 unlabelled) and record numbers int64 [n]."""

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray


def make_encode(config):
    """A jitted (video encoder's parameters, uint8 [B, T, H0, W0, 3]) -> float32 [B, D], of the centre crop."""
    encoder = build_encoder(config, config.video_branch, video_grid(config))

    @jax.jit
    def encode(params, video):
        clips = jax.vmap(lambda v: augment.centre_crop(v.astype(jnp.float32) / 255, config.augment.size))(video)
        return encode_pixels(config, encoder, params, clips)

    return encode


def encode_pixels(config, encoder, params, clips):
    """Pooled features float32 [B, D] of clips [B, T, H, W, 3] in 0..1."""
    clips = augment.standardise(clips, config.augment.mean, config.augment.std)
    return pool(encoder.apply({"params": params}, clips).tokens)


def extract(config, params, source, limit: int = 0, batch_size: int = 0) -> Features:
    """Features of the first `limit` records of a source (0: all); records that cannot be read are left out.

    Args:
      config: says the encoder and the clips.
      params: of the video encoder.
      source: see `data.sources`.
      limit: how many records.
      batch_size: clips a pass; 0 takes the config's.
    """
    encode, batch_size = make_encode(config), batch_size or config.batch_size
    rows = []
    with make_eval_loader(config, source, batch_size) as loader:
        for batch in loader:
            keep = batch["valid"]
            values = jax.device_get(encode(params, batch["video"]))
            rows.append((values[keep], batch["label"][keep], batch["index"][keep]))
            if limit and batch["index"][-1] + 1 >= limit:
                break
    values, labels, index = (np.concatenate(column) for column in zip(*rows))
    within = index < limit if limit else slice(None)
    return Features(values[within], labels[within], index[within])
