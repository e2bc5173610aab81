"""The rows of the figure: what each shows, of which frames, and how it moves; embeddings and retrieval sheets."""

import matplotlib.axes
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from cvmae.models.patches import Grid
from cvmae.visualize.embedding import draw_embedding, embed
from cvmae.visualize.figure import MARK, Semantic, moving, still, strips
from cvmae.visualize.heatmap import ATTENTION_COLORS, SEMANTIC_COLORS, color
from cvmae.visualize.reconstruction import Reconstruction
from cvmae.visualize.retrieval_sheet import QUERY, RIGHT, WRONG, Retrieval, draw_sheet, fraction_right, label_names
from tests.visualize.test_drawing import places_of

GRID = Grid(4, 16, 24, 2, 8)
ATTENTION = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
SEMANTIC = Semantic("somewhere", np.arange(24, dtype=np.float32).reshape(4, 2, 3)[::-1].copy())


def found(frames=4):
    parts = np.random.default_rng(0).uniform(size=(3, frames, 16, 24, 3)).astype(np.float32)
    return Reconstruction(*parts)


def rows_of(frames=(0, 1, 2, 3), **changes):
    what = {"ratio": 0.9, "decoded": True} | changes
    return strips(found(len(frames)), np.array(frames), ATTENTION, what.pop("semantic", SEMANTIC), GRID, **what)


def test_six_rows_in_the_order_of_the_paper():
    rows = rows_of()
    names = ["frames", "masked", "reconstruction", "space-time attention", "overlay", "semantic map"]
    assert [row.name for row in rows] == names
    assert [row.detail for row in rows][1:] == [
        "90 % masked",
        "",
        "relative to uniform",
        "attention over the reconstruction",
        "somewhere",
    ]
    assert len({row.frames.shape for row in rows}) == 1
    for row, pixels in zip(rows, (found().clip, found().masked, found().rebuilt)):
        scale = row.frames.shape[1] // 16
        np.testing.assert_array_equal(row.frames[:, ::scale, ::scale], np.round(pixels * 255))
    attention, overlaid, semantic = rows[3:]
    assert (attention.bar.low, attention.bar.high, semantic.bar.low, semantic.bar.high) == (0, 11, 0, 23)
    # The greatest is at the last temporal position, at the bottom right; on one scale for all frames.
    assert (attention.frames[3, -1, -1] == color([1.0], ATTENTION_COLORS)).all()
    assert (attention.frames[0, 0, 0] == color([0.0], ATTENTION_COLORS)).all()
    np.testing.assert_array_equal(attention.frames[0], attention.frames[1])
    assert (semantic.frames[0, -1, -1] == color([1.0], SEMANTIC_COLORS)).all()
    # Over the reconstruction: it shows where attention is least.
    np.testing.assert_array_equal(overlaid.frames[0, 0, 0], rows[2].frames[0, 0, 0])
    assert np.abs(overlaid.frames[3, -1, -1].astype(int) - color([1.0], ATTENTION_COLORS)).max() < 60


def test_without_a_decoder_the_map_lies_over_the_frames():
    rows = rows_of(decoded=False)
    assert [row.name for row in rows] == ["frames", "masked", "space-time attention", "overlay", "semantic map"]
    assert rows[3].detail == "attention over the frames"
    np.testing.assert_array_equal(rows[3].frames[0, 0, 0], rows[0].frames[0, 0, 0])


def test_frames_that_a_decoder_predicts_are_those_of_every_row():
    rows = rows_of((0, 3))
    attention = rows_of()[3].frames
    np.testing.assert_array_equal(rows[3].frames, attention[[0, 3]])
    np.testing.assert_array_equal(rows[5].frames, rows_of()[5].frames[[0, 3]])
    assert {len(row.frames) for row in rows} == {2}


def test_colors_of_tokens_are_a_semantic_row():
    values = np.zeros((4, 2, 3, 3), np.float32)
    values[2, 0, 2] = (1, 0.5, 0)
    row = rows_of(semantic=Semantic("PCA", values))[-1]
    assert row.bar is None and row.detail == "PCA" and not row.frames[[0, 1, 3]].any()
    height, width = row.frames.shape[1:3]
    center = row.frames[2, height // 4, width * 5 // 6].astype(int)
    assert np.abs(center - (255, 128, 0)).max() < 5 and not row.frames[2, height // 4, : width // 3].any()


def test_the_query_patch_is_marked_in_its_frames():
    marked, plain = rows_of(mark=(1, 0, 2)), rows_of()
    height, width = marked[0].frames.shape[1:3]
    for number in (0, 3):
        changed = (marked[number].frames != plain[number].frames).any(-1)
        assert not changed[:2].any() and changed[2:].any()
        places = np.argwhere((marked[number].frames[2] == MARK).all(-1))
        assert places.min(0).tolist() == [0, round(width * 2 / 3)]
        assert places.max(0).tolist() == [round(height / 2) - 1, width - 1]


def test_still_and_moving():
    rows = rows_of()
    sheet = still(rows, np.arange(4), 2, "a title", "a note")
    for row in rows:
        assert places_of(sheet, row.frames[0]) and places_of(sheet, row.frames[3])
    assert (
        not places_of(sheet, rows[0].frames[1]) and len(places_of(still(rows, np.arange(4), 0, "", ""), rows[0].frames[1])) == 1
    )
    pictures = moving(rows, "a title")
    assert len(pictures) == 4
    for t, picture in enumerate(pictures):
        [(top, left)], [(under, below)] = (places_of(picture, rows[i].frames[t]) for i in (0, 4))
        assert under > top and below > left  # three beside each other


def test_clusters_stay_apart_in_an_embedding():
    draw = np.random.default_rng(0)
    labels = np.arange(30) % 3
    features = np.eye(8)[labels] * 9 + draw.normal(size=(30, 8))
    places, how = embed(features, "tsne", perplexity=5, seed=3)
    assert places.shape == (30, 2) and how == "t-SNE of cosine distances, perplexity 5"
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(1)] == labels).all()
    np.testing.assert_array_equal(embed(features, "tsne", perplexity=5, seed=3)[0], places)
    assert not np.allclose(embed(features, "tsne", perplexity=9, seed=3)[0], places)
    flat, how = embed(features, "pca")
    np.testing.assert_allclose(np.abs(flat), np.abs(PCA(2).fit_transform(features)), atol=1e-4)
    assert "first two principal components" in how and embed(features[:3], "tsne")[0].shape == (3, 2)
    for bad in (("umap", features), ("pca", features[:1])):
        with pytest.raises(ValueError, match="unknown|at least 2"):
            embed(bad[1], bad[0])


def test_points_have_the_color_and_name_of_their_class(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "scatter", lambda self, x, y, **style: seen.append((list(x), style["label"], style["color"]))
    )
    labels = np.array([0, 1, 1, -1, 2])
    draw_embedding(tmp_path / "e.png", np.stack([np.arange(5.0), np.zeros(5)], 1), labels, ("a", "b$", "c"), "title $x")
    assert [(x, label) for x, label, _ in seen] == [([3], "unlabeled"), ([0], "a"), ([1, 2], r"b\$"), ([4], "c")]
    assert len({str(color) for *_, color in seen}) == 4 and Image.open(tmp_path / "e.png").size[0] > 500
    seen.clear()
    draw_embedding(tmp_path / "e.png", np.zeros((60, 2)), np.arange(60) % 30, (), "title")
    assert seen[0][1] == "other classes" and len(seen) == 21 and seen[1][1] == "class 0"


def test_neighbors_are_framed_by_whether_they_are_right():
    pictures = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8)
    one = Retrieval(pictures[0], pictures[1:], np.array([0.9, 0.8, 0.7]), 1, np.array([1, 0, -1]))
    assert one.right == [True, False, None] and fraction_right([one]) == 0.5
    sheet = draw_sheet([one], ("a", "b"), "title", "note")
    inner = [places_of(sheet, picture[4:-4, 4:-4]) for picture in pictures]
    assert all(len(places) == 1 for places in inner)
    assert [x for [(_, x)] in inner] == sorted(x for [(_, x)] in inner)
    borders = [tuple(sheet[places[0][0] - 1, places[0][1] - 1]) for places in inner]
    assert borders[:3] == [QUERY, RIGHT, WRONG] and len(set(borders)) == 4
    assert fraction_right([Retrieval(pictures[0], pictures[1:], np.zeros(3), -1, np.zeros(3, int))]) is None


def test_a_neighbor_is_right_if_it_shares_a_label():
    sets = np.array([[True, True, False], [False, True, True], [False, False, True]])
    pictures = np.zeros((5, 8, 8, 3), np.uint8)
    one = Retrieval(pictures[0], pictures[1:], np.ones(4), 0, np.array([0, 1, 2, -1]), sets)
    assert one.right == [True, True, False, None] and fraction_right([one]) == pytest.approx(2 / 3)
    assert label_names(("a", "b", "c"), sets) == ("a, b", "b, c", "c") and label_names((), sets)[0] == "class 0, class 1"
    assert label_names(("a", "b"), None) == ("a", "b")
