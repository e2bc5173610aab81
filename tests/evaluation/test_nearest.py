"""Nearest neighbors and ranks against plain numpy and scikit-learn, whatever the chunks, and the memory of large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from cvmae.evaluation import nearest

LARGE, WIDTH = 200_000, 768


def normal(n, width=24, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def signs(n, seed=0):
    """Rows of 16 values ±1: their cosine similarities are multiples of 1/8, exact in float32, so many of them tie."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (n, 16)).astype(np.float32)


def plain_nearest(scores, k):
    """By falling score; equals keep their order, so the lower index is first."""
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(scores, index, axis=1)


def test_neighbors_are_those_of_scikit_learn():
    queries, gallery = normal(30), normal(70, seed=1)
    index, near = nearest.nearest(queries, gallery, 5, chunks=(8, 16))
    distance, expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(gallery).kneighbors(queries)
    assert index.dtype == np.int32 and near.dtype == np.float32
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(near, 1 - distance, atol=1e-6)


@pytest.mark.parametrize("chunks", [(1024, 16384), (7, 9), (37, 100), (2, 3)])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_chunks_change_nothing_and_ties_go_to_the_lower_index(chunks, exclude_self):
    gallery = signs(101)
    queries = gallery if exclude_self else signs(37, seed=1)
    scores = queries @ gallery.T / 16
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    index, near = nearest.nearest(queries, gallery, 20, exclude_self, chunks)
    expected = plain_nearest(scores, 20)
    assert len(np.unique(near)) < 10  # so ties there were
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(near, expected[1])


def test_a_whole_gallery_can_be_ranked_across_chunks_smaller_than_k():
    features = signs(23)
    index, _ = nearest.nearest(features, features, 22, exclude_self=True, chunks=(5, 4))
    for i, row in enumerate(index):
        assert set(row) == set(range(23)) - {i}


def test_zero_rows_are_like_nothing_and_signs_of_zero_are_equal():
    gallery = np.array([[-1, -1], [1, 1], [0, 0], [-1, 1]], np.float32)
    index, near = nearest.nearest(np.zeros((1, 2)), gallery, 4)
    np.testing.assert_array_equal(index, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(near, np.zeros((1, 4)))
    index, _ = nearest.nearest(np.zeros((3, 1)), np.array([[-1], [1], [-1], [1]]), 4)  # width 1: 0 x -1 is -0
    np.testing.assert_array_equal(index, [[0, 1, 2, 3]] * 3)


@pytest.mark.parametrize("values", [2**24, 1000, 303, 1])
def test_ranks_of_given_partners_count_ties_against_them(values):
    queries, gallery = signs(37), signs(101, seed=1)
    partners = np.random.default_rng(2).integers(0, 101, 37)
    scores = queries @ gallery.T / 16
    expected = (scores >= scores[np.arange(37), partners][:, None]).sum(1)
    np.testing.assert_array_equal(nearest.partner_ranks(queries, gallery, partners, values), expected)
    np.testing.assert_array_equal(
        nearest.partner_ranks(queries, gallery, values=values), (scores >= np.diag(scores)[:, None]).sum(1)
    )


@pytest.mark.parametrize("n", [1, 61])
def test_a_partner_and_its_copy_are_nearest_however_the_product_rounds(n):
    """At width 768 sums are rounded, and a copy elsewhere may round otherwise; the partner is still at least as near as itself."""
    gallery = np.concatenate([normal(n, WIDTH, seed=1), normal(50, WIDTH, seed=2), normal(n, WIDTH, seed=1)])
    queries = gallery[:n] + 0.1 * normal(n, WIDTH, seed=3)
    assert np.isin(nearest.partner_ranks(queries, gallery), [1, 2]).all()
    index, _ = nearest.nearest(queries, gallery, 2, chunks=(16, 32))
    np.testing.assert_array_equal(np.sort(index), np.arange(n)[:, None] + [0, n + 50])


@pytest.mark.parametrize("values", [2**24, 200, 1])
def test_rows_come_in_order_and_each_once(values):
    queries, gallery = normal(13), normal(50, seed=1)
    found = list(nearest.similarity_rows(queries * 9, gallery, values))
    assert len(found) == 13
    np.testing.assert_allclose(found, cosine_similarity(queries, gallery), atol=1e-6)


@pytest.mark.parametrize("chunks", [(8, 16), (11, 7)])
def test_one_compilation_serves_every_chunk(chunks):
    queries, gallery = normal(30, 12), normal(50, 12)
    before = nearest._nearest._cache_size()
    nearest.nearest(queries, gallery, 3, chunks=chunks)
    assert nearest._nearest._cache_size() == before + 1


def float32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def int32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def chunk_sizes(monkeypatch, function, call):
    """The shapes with which `call` reaches a compiled function, which is not run."""

    class Reached(Exception):
        pass

    def stop(*arguments):
        raise Reached([jnp.shape(argument) for argument in arguments])

    monkeypatch.setattr(nearest, function, stop)
    monkeypatch.setattr(nearest, "unit_rows", lambda features: features)  # rows that take no memory
    with pytest.raises(Reached) as reached:
        call()
    return reached.value.args[0]


def large():
    """200,000 rows of width 768, all the same one in memory."""
    return np.broadcast_to(np.zeros((1, WIDTH), np.int8), (LARGE, WIDTH))


def test_200_000_against_200_000_fit(monkeypatch, optimized):
    """The shapes that the search itself chooses, compiled and not run; int8 spares the test's own memory."""
    queries, own, gallery, _, _ = chunk_sizes(monkeypatch, "_nearest", lambda: nearest.nearest(large(), large(), 200))
    monkeypatch.undo()
    assert LARGE <= gallery[0] * gallery[1] < 1.01 * LARGE
    lowered = nearest._nearest.lower(float32(*queries), int32(*own), float32(*gallery), LARGE, k=200)
    memory = lowered.compile().memory_analysis()
    assert memory.argument_size_in_bytes < 0.65 * 2**30  # the gallery and a chunk of queries
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 0.25 * 2**30


def test_ranks_among_200_000_fit(monkeypatch, optimized):
    queries, gallery, partners = chunk_sizes(monkeypatch, "_ranks", lambda: nearest.partner_ranks(large(), large()))
    assert chunk_sizes(monkeypatch, "_similarity", lambda: next(nearest.similarity_rows(large(), large()))) == [
        queries,
        gallery,
    ]
    monkeypatch.undo()
    for function, shapes in (("_ranks", [int32(*partners)]), ("_similarity", [])):
        memory = getattr(nearest, function).lower(float32(*queries), float32(*gallery), *shapes).compile().memory_analysis()
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 0.25 * 2**30


def test_what_cannot_be_compared_is_said():
    features = normal(10)
    broken = features.copy()
    broken[3, 5] = np.nan
    with pytest.raises(ValueError, match="row 3 of the features is not finite"):
        nearest.nearest(features, broken, 1)
    with pytest.raises(ValueError, match="at least one clip"):
        nearest.nearest(features, features[:0], 1)
    with pytest.raises(ValueError, match="width 24 and a gallery of width 20"):
        nearest.nearest(features, features[:, :20], 1)
    with pytest.raises(ValueError, match="ask for 1 to 9"):
        nearest.nearest(features, features, 10, exclude_self=True)
    with pytest.raises(ValueError, match="ask for 1 to 10"):
        nearest.nearest(features, features, 0)
    with pytest.raises(ValueError, match="same rows twice"):
        nearest.nearest(features[:5], features, 1, exclude_self=True)
    for partners in (None, np.arange(12), np.full(12, -1)):
        with pytest.raises(ValueError, match="needs a partner"):
            nearest.partner_ranks(normal(12), features, partners)
