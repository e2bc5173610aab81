"""Held-out numbers: reproducible, of the right clips, and baselines that are what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cvmae import augment
from cvmae.data.bad_files import BadDataError, BadFiles
from cvmae.data.records import UnreadableError
from cvmae.data.sources import make_source
from cvmae.evaluation.diagnostics import effective_rank, linear_cka, nearest_visible, reconstruction_errors
from cvmae.evaluation.features import Features, extract
from cvmae.evaluation.heldout import HeldOut, full_batches
from cvmae.evaluation.pretraining_report import evaluate_pretraining, report_table, vote_of_neighbors
from cvmae.models.build import build_encoder, image_grid, video_grid
from cvmae.models.masking import from_hidden
from cvmae.models.patches import Grid
from cvmae.objective.objective import Objective
from cvmae.objective.views_and_masks import view_spec
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
    assert found == [[0, 2, 3, 4], [5, 6, 7, 8]] == [batch["video"].tolist() for batch in full_batches(loader, 4, 2)]
    assert [batch["video"].tolist() for batch in full_batches(loader, 10, 2)] == [[0, 2, 3, 4, 5, 6, 7, 8]]
    assert not list(full_batches(loader, 10)) and not list(full_batches(loader, 12, 10))


class Chosen:
    """Some records of a source, in this order; -1 is one that cannot be read."""

    def __init__(self, source, rows):
        self.source, self.rows = source, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.rows[index] < 0:
            raise UnreadableError(f"broken{index}.mp4", "no video")
        return self.source[self.rows[index]]


@pytest.mark.parametrize(
    ("rows", "readable", "note"),
    [
        ([0, 1, -1, 3, 4], [0, 1, 3, 4], "4 of 5 held-out clips, in batches of 4"),
        ([*range(5), -1, *range(6, 16)], [*range(5), 6, 7, 8], "8 of 16 held-out clips, in batches of 8"),
        ([*range(5), -1, *range(6, 17)], [*range(5), *range(6, 17)], ""),
    ],
)
def test_an_unreadable_clip_is_listed_and_the_numbers_are_those_of_the_others(world, tmp_path, capsys, rows, readable, note):
    """Of sources without it, and with one batch where the others are fewer than one."""
    _, params, held_out = world
    holed, others = (HeldOut(held_out.objective, Chosen(held_out.source, some), held_out.placement) for some in (rows, readable))
    holed.bad_files = BadFiles(tmp_path, len(rows), 0.5, announced="the held-out clips")
    assert others.terms(params) == holed.terms(params) == holed.terms(params)
    name = f"broken{rows.index(-1)}.mp4"
    said = capsys.readouterr().err
    assert said.count(name) == 1 and f"the held-out clips: cannot be read, and left out: {name} (no video); {tmp_path}" in said
    assert said.count("averages over") == bool(note) and note in said
    assert holed.bad_files.pairs == [(name, "no video")]


def test_held_out_clips_of_which_none_can_be_read_are_an_error_with_the_list(world, tmp_path):
    _, params, held_out = world
    blind = HeldOut(held_out.objective, Chosen(held_out.source, [-1] * 3), held_out.placement)
    with pytest.raises(BadDataError, match=r"of the 3 held-out clips fewer than the 1 devices can be read: repair them"):
        blind.terms(params)
    blind.bad_files = BadFiles(tmp_path, 3, 0.5)
    for _ in range(2):  # a restart reads the list, and is not let through for that
        with pytest.raises(BadDataError, match=r"3 of 3 videos cannot be read.*broken0.mp4 \(no video\).*bad_files.csv"):
            blind.terms(params)
        blind.bad_files = BadFiles(tmp_path, 3, 0.5)


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
    c, params, _ = world
    batch = samples(c, 2)
    batch["video"] = np.full_like(batch["video"], 90)
    c.video_branch.target_norm = "none"
    errors = jax.jit(reconstruction_errors, static_argnums=0)(Objective(c), params, batch)
    c.video_branch.target_norm = "patch"
    model, mean, nearest = (errors[f"reconstruction/{name}"] for name in ("model", "mean_patch", "nearest_patch"))
    assert mean < 1e-9 and nearest < 1e-9 < model


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
    terms = ("intra_video", "intra_frame", "cross_video", "cross_frame")
    names = {"reconstruction/model", "reconstruction/mean_patch", "reconstruction/nearest_patch"}
    names |= {f"{kind}/{term}" for kind in ("accuracy", "gray_accuracy") for term in terms}
    names |= {"retrieval/same_clip_r1", "retrieval/same_clip_r5", "retrieval/median_rank", "retrieval/same_label_1nn"}
    names |= {"probe/accuracy", "knn/accuracy", "effective_rank/video", "effective_rank/image", "cka/video_image"}
    assert set(found) == names and all(np.isfinite(v) for v in found.values())
    text = report_table(found, found | {"probe/accuracy": 0.125})
    assert "12.5 %" in text and "nearest patch" in text and len(text.splitlines()) == 15
    lines = text.splitlines()
    assert [i for i, line in enumerate(lines) if "in gray" in line] == [1 + i for i, line in enumerate(lines) if "modal" in line][
        :1
    ]


def test_features_of_the_report_are_those_of_the_encoders_alone(world):
    """v by the video encoder and the frames by the image encoder, unmasked, without the objective."""
    c, params, held_out = world
    _, features = held_out.report(params)
    spec = view_spec(c, 1)
    encoders = {
        "v": build_encoder(c, c.video_branch, video_grid(c)),
        "frames": build_encoder(c, c.image_branch, image_grid(c)),
    }
    batch = next(held_out.samples())
    views = jax.jit(jax.vmap(lambda *clip: augment.make_views(*clip, spec, True)))
    v, frames = views(batch["views"], batch["video"], batch["frame_index"])
    inputs = {"v": v[:, 0], "frames": frames.reshape(-1, 1, *frames.shape[2:])}
    for name, branch in (("v", "video"), ("frames", "image")):
        pixels = augment.normalize(inputs[name], c.augment.mean, c.augment.std)
        tokens = np.asarray(jax.jit(encoders[name].apply)({"params": params[branch]["encoder"]}, pixels).tokens)
        expected = tokens.reshape(len(v), -1, tokens.shape[-1]).mean(1)
        np.testing.assert_allclose(features[name][: len(v)], expected, atol=2e-5)
    assert features["v"].shape == features["v_plus"].shape == features["frames"].shape == (16, 32)
    found = evaluate_pretraining(held_out, params, held_out.source, 20, 0)
    assert found["cka/video_image"] == pytest.approx(linear_cka(features["v"], features["frames"]), rel=1e-6)
    assert found["effective_rank/image"] == pytest.approx(effective_rank(features["frames"]), rel=1e-6)


def test_the_rank_over_steps_is_of_the_features_that_the_objective_pools_of_all_clips(world):
    _, params, held_out = world
    objective = held_out.objective
    outputs = [jax.jit(lambda s: objective.forward(params, objective.make_inputs(s)))(batch) for batch in held_out.samples()]
    metrics = held_out.terms(params)
    for branch in ("video", "image"):
        features = np.concatenate([getattr(output, f"{branch}_features") for output in outputs])
        assert len(outputs) == 2 and 1 < metrics[f"feature_rank/{branch}"] < 16
        assert metrics[f"feature_rank/{branch}"] == pytest.approx(effective_rank(features), rel=1e-3)
        assert metrics[f"feature_std/{branch}"] == pytest.approx(features.reshape(2, -1, 32).std(1).mean(), rel=1e-4)


def test_without_an_image_branch_there_is_nothing_to_compare_it_with():
    _, params, held_out = setup(only=("mse_video",))
    found = evaluate_pretraining(held_out, params, held_out.source, 20, 0)
    assert not [name for name in found if name.startswith(("cka/", "gray_", "accuracy/")) or "image" in name]
    assert found["effective_rank/video"] > 1 and "feature_rank/image" not in held_out.terms(params)
    assert len(report_table(found).splitlines()) == 9


def test_the_vote_is_that_of_scikit_learn_with_weights_of_similarities():
    draw = np.random.default_rng(0)
    values, labels = draw.normal(size=(120, 6)).astype(np.float32), draw.integers(0, 3, 120)
    values[np.arange(120), labels] += 1
    train, test = (Features(values[part], labels[part], np.arange(60)) for part in (slice(60), slice(60, None)))
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = model.fit(train.values, train.labels).score(test.values, test.labels)
    assert 0.4 < expected < 1 and vote_of_neighbors(train, test) == pytest.approx(expected)
