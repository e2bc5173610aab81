"""Features: the right layer, tokens, crops and rows."""

import dataclasses

import jax
import numpy as np
import pytest

from cvmae.augment import center_crop, normalize
from cvmae.data.clip_views import TestViews, make_view_loader
from cvmae.data.sources import make_source
from cvmae.evaluation import features as features_lib
from cvmae.evaluation.features import (
    COLUMNS,
    Features,
    FeatureSpec,
    extract,
    feature_rows,
    make_encode,
    mean_over_clips,
)
from cvmae.models.build import build_encoder, video_grid
from cvmae.parallel.mesh import Placement, local_mesh
from tests.tiny_configs import config

encode_tokens = jax.jit(features_lib.encode_tokens, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def world():
    """A config, its encoder with random parameters, and two normalized clips."""
    c = config(data__synthetic__clips=10, video_branch__cls_token=True)
    encoder = build_encoder(c, c.video_branch, video_grid(c))
    draw = np.random.default_rng(0)
    clips = draw.normal(size=(2, 4, 32, 32, 3)).astype(np.float32)
    params = jax.jit(encoder.init)(jax.random.key(0), clips)["params"]
    # Random biases and scales too: the initialization's zeros and ones would hide a missing norm.
    params = jax.tree.map(lambda leaf: leaf + 0.2 * draw.normal(size=leaf.shape).astype(np.float32), params)
    return c, encoder, params, clips


def truncated(encoder, params, blocks):
    """An encoder of the first blocks alone, without the last norm, and its parameters."""
    size = dataclasses.replace(encoder.trunk.size, depth=blocks)
    short = encoder.clone(trunk=dataclasses.replace(encoder.trunk, size=size), final_norm=False)
    kept = {name: value for name, value in params["blocks"].items() if name in {f"block{i}" for i in range(blocks)}}
    return short, {name: value for name, value in params.items() if name != "norm"} | {"blocks": kept}


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_is_the_output_of_an_encoder_that_ends_there(world, layer, cls):
    _, encoder, params, clips = world
    if not cls:
        encoder = encoder.clone(cls_token=False)
    short, kept = truncated(encoder, params, layer + 1)
    expected = jax.jit(short.apply)({"params": kept}, clips).tokens
    found = encode_tokens(encoder, params, clips, FeatureSpec(layer, "all"))
    assert found.shape == (2, encoder.grid.tokens, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_last_norm_is_applied_to_the_output_alone(world):
    _, encoder, params, clips = world
    output, raw, last = (
        np.asarray(encode_tokens(encoder, params, clips, spec), np.float64)
        for spec in (FeatureSpec(tokens="all"), FeatureSpec(tokens="all", norm=False), FeatureSpec(1, "all"))
    )
    np.testing.assert_array_equal(raw, last)
    normed = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(output, normed * params["norm"]["scale"] + params["norm"]["bias"], atol=1e-4)
    bare = encoder.clone(final_norm=False)
    np.testing.assert_allclose(encode_tokens(bare, params, clips, FeatureSpec(tokens="all")), raw, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 0])
def test_slots_and_pooled_are_means_of_all(world, layer):
    _, encoder, params, clips = world
    every, slots, pooled = (
        encode_tokens(encoder, params, clips, FeatureSpec(layer, kind)) for kind in ("all", "slots", "pooled")
    )
    assert every.shape == (2, 8, 32) and slots.shape == (2, 2, 32) and pooled.shape == (2, 32)
    np.testing.assert_allclose(slots[:, 1], np.asarray(every)[:, 4:].mean(1), atol=1e-6)
    np.testing.assert_allclose(pooled, np.asarray(every).mean(1), atol=1e-6)
    assert every.dtype == slots.dtype == pooled.dtype == np.float32


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda c: FeatureSpec(tokens="cls"), "tokens is 'cls'; expected one of pooled, slots, all"),
        (lambda c: make_encode(c, FeatureSpec(2)), "layer=2: the encoder has 2 blocks; give -1 .its output. or 0 to 1"),
        (lambda c: make_encode(c, FeatureSpec(-2)), "layer=-2"),
    ],
)
def test_mistakes_are_named(world, make, message):
    with pytest.raises(ValueError, match=message):
        make(world[0])


def test_rows_are_clips_of_records_averaged_over_crops(world):
    c, encoder, params, _ = world
    source, plan, encode = make_source(c.data, "val"), TestViews(2, 3), make_encode(c, FeatureSpec(0, "slots"))
    batches = list(feature_rows(c, lambda video: encode(params, video), source, 4, plan, placement=Placement(local_mesh())))
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert list(zip(rows["index"], rows["clip"])) == [divmod(row, 2) for row in range(20)] and rows["valid"].all()
    assert (rows["labels"] == rows["index"] % 4).all() and rows["values"].shape == (20, 2, 32)
    with make_view_loader(c, source, 1, plan) as loader:
        for expected, batch in zip(rows["values"], loader):
            crops = [center_crop(crop.astype(np.float32) / 255, c.augment.size) for crop in np.array(batch["video"][0])]
            clips = normalize(np.stack(crops), c.augment.mean, c.augment.std)
            by_hand = encode_tokens(encoder, params, clips, FeatureSpec(0, "slots")).mean(0)
            np.testing.assert_allclose(expected, by_hand, atol=1e-4)


class Recorder:
    """Stands in for the list of bad files; keeps the reports of every batch."""

    def __init__(self):
        self.reports = []

    def update(self, reports):
        self.reports.append(reports)


def test_rows_go_on_where_asked_and_report_what_failed(world):
    c, _, params, _ = world
    source, encode, recorder = make_source(c.data, "val"), make_encode(c), Recorder()
    whole, rest = (
        list(feature_rows(c, lambda v: encode(params, v), source, 4, TestViews(2), bad_files=recorder, start_row=row))
        for row in (0, 8)
    )
    assert len(whole) == 5 and len(rest) == 3 and len(recorder.reports) == 8 and recorder.reports[0].shape == (4, 512)
    for one, other in zip(whole[2:], rest):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_extract_is_the_first_records_pooled(world):
    c, _, params, _ = world
    source = make_source(c.data, "val")
    few, many = extract(c, params, source, limit=5, batch_size=2), extract(c, params, source, batch_size=4)
    assert few.index.tolist() == list(range(5)) and many.index.tolist() == list(range(10)) and not many.clip.any()
    np.testing.assert_allclose(few.values, many.values[:5], atol=1e-5)
    encode = make_encode(c)
    [rows] = feature_rows(c, lambda v: encode(params, v), source, 10, TestViews())
    np.testing.assert_allclose(many.values, rows["values"], atol=1e-5)
    assert set(rows) == {*COLUMNS, "valid"}


def test_mean_over_clips():
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    features = Features(values, np.array([7, 3, 3, 7, 3], np.int32), np.array([4, 1, 1, 4, 1]), np.arange(5, dtype=np.int32))
    found = mean_over_clips(features)
    assert found.index.tolist() == [1, 4] and found.labels.tolist() == [3, 7] and found.clip is None
    np.testing.assert_array_equal(found.values, [values[[1, 2, 4]].mean(0), values[[0, 3]].mean(0)])
