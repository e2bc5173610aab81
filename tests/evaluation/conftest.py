"""Extraction of the features of a few clips by a tiny encoder."""

import jax
import numpy as np
import pytest

from cvmae.data.records import Record
from cvmae.evaluation import extract
from cvmae.evaluation.extract import extract_features
from cvmae.evaluation.features import FeatureSpec, make_encode
from cvmae.models.build import build_encoder, video_grid
from tests.tiny_configs import config

COUNT = 4


class Clips:
    """A source of frames with any names."""

    class_names, identity = (), "clips"

    def __init__(self, names):
        self.names, self.labels = names, np.zeros(len(names), np.int32)

    def __len__(self):
        return len(self.names)

    def key(self, index):
        return self.names[index]

    def __getitem__(self, index):
        return Record(self.names[index], 0, None, None, np.full((10, 32, 32, 3), 20 * index, np.uint8))


@pytest.fixture(scope="module")
def encoder():
    c = config()
    module = build_encoder(c, c.video_branch, video_grid(c))
    return jax.jit(module.init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"], make_encode(c)


@pytest.fixture
def extracted(encoder, tmp_path, monkeypatch):
    """Returns a function that extracts into the folder OUT, and returns the counts."""
    params, encode = encoder
    monkeypatch.setattr(extract, "make_encode", lambda *_: encode)

    def run(format="npz", names=tuple(f"d/{number}.mp4" for number in range(COUNT)), out="out", params=params):
        source = names if not isinstance(names, tuple) else Clips(names)
        return extract_features(config(batch_size=4), params, source, tmp_path / out, FeatureSpec(), format=format)

    return run
