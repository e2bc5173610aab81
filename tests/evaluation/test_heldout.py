"""Held-out numbers: reproducible, of the right clips, and baselines that are what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.data.sources import make_source
from cvmae.evaluation.features import extract
from cvmae.evaluation.heldout import (
    HeldOut,
    evaluate_pretraining,
    full_batches,
    nearest_visible,
    reconstruction_errors,
    report_table,
)
from cvmae.models.masking import from_hidden
from cvmae.models.patches import Grid
from cvmae.objective.objective import Objective
from cvmae.parallel.mesh import Placement, local_mesh
from tests.tiny_configs import config, samples


def setup(**overrides):
    c = config(data__synthetic__clips=20, **overrides)
    objective = Objective(c)
    params = jax.jit(objective.init)(jax.random.key(0), samples(c, 2))
    return c, params, HeldOut(objective, make_source(c.data, "val"), Placement(local_mesh()))


@pytest.fixture(scope="module")
def world():
    return setup()


def test_full_batches_leave_unreadable_rows_and_the_remainder_out():
    rows = np.arange(10)
    loader = [
        {"video": rows[:5], "frame_index": rows[:5], "valid": np.array([1, 0, 1, 1, 1], bool)},
        {"video": rows[5:], "frame_index": rows[5:], "valid": np.ones(5, bool)},
    ]
    found = [batch["video"].tolist() for batch in full_batches(loader, 4)]
    assert found == [[0, 2, 3, 4], [5, 6, 7, 8]]


def test_terms_are_the_same_every_time_and_change_with_the_parameters(world):
    _, params, held_out = world
    first = held_out.terms(params)
    assert first == held_out.terms(params)
    other = held_out.terms(jax.tree.map(lambda a: a * 1.5, params))
    assert other["loss/mse_video"] != first["loss/mse_video"]


def test_nearest_visible_is_the_nearest_in_space_and_time():
    grid = Grid(4, 4, 4, 2, 2)  # 2 slots of 2 by 2
    hidden = jnp.array([[False, True, True, True, True, True, True, False]])
    mask = from_hidden(hidden, 2)
    assert mask.masked.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert nearest_visible(mask, grid).tolist() == [[0, 0, 1, 0, 1, 1]]


def test_baselines_are_right_about_clips_they_can_know(world):
    c, params, held_out = world
    batch = samples(c, 2)
    batch["video"] = np.full_like(batch["video"], 90)
    c.video_branch.target_norm = "none"
    errors = reconstruction_errors(Objective(c), params, held_out.objective.make_inputs(batch))
    c.video_branch.target_norm = "patch"
    assert errors["mean_patch"] < 1e-9 and errors["nearest_patch"] < 1e-9 < errors["model"]


def test_features_are_those_of_single_clips_in_order(world):
    c, params, held_out = world
    encoder = params["video"]["encoder"]
    many = extract(c, encoder, held_out.source, batch_size=8)
    few = extract(c, encoder, held_out.source, limit=5, batch_size=3)
    assert many.index.tolist() == list(range(20)) and many.values.shape == (20, 32)
    np.testing.assert_allclose(few.values, many.values[:5], atol=1e-5)
    assert (many.labels == np.arange(20) % 4).all()


def test_a_report_has_every_number_and_reads_as_a_table(world):
    _, params, held_out = world
    found = evaluate_pretraining(held_out, params, held_out.source, 20, 0)
    names = {"reconstruction/model", "reconstruction/mean_patch", "reconstruction/nearest_patch", "probe/accuracy"}
    names |= {f"accuracy/{term}" for term in ("intra_video", "intra_frame", "cross_video", "cross_frame")}
    names |= {"retrieval/same_clip_r1", "retrieval/same_clip_r5", "retrieval/median_rank", "retrieval/same_label_1nn"}
    assert set(found) == names and all(np.isfinite(v) for v in found.values())
    text = report_table(found, found | {"probe/accuracy": 0.125})
    assert "12.5 %" in text and "nearest patch" in text and len(text.splitlines()) == 12
