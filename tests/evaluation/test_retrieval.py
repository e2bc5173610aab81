"""Retrieval and probe against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from cvmae.evaluation import retrieval
from cvmae.evaluation.features import Features
from cvmae.evaluation.pretraining_report import linear_probe


def noisy_pair(n=50, width=8, noise=1.0):
    draw = np.random.default_rng(0)
    a = draw.normal(size=(n, width))
    return a, a + noise * draw.normal(size=(n, width))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_equals_top_k_accuracy_of_scikit_learn(k):
    queries, gallery = noisy_pair()
    found = retrieval.recall(retrieval.partner_ranks(queries, gallery), k)
    scores = cosine_similarity(queries, gallery)
    assert found == pytest.approx(top_k_accuracy_score(np.arange(50), scores, k=k, labels=np.arange(50)))
    assert 0 < found < 1 or k == 10


def test_length_is_ignored():
    queries, gallery = noisy_pair()
    expected = retrieval.partner_ranks(queries, gallery)
    np.testing.assert_array_equal(retrieval.partner_ranks(queries * 9, gallery / np.arange(1, 51)[:, None]), expected)


def test_ties_count_against_the_partner():
    same = np.ones((4, 3))
    assert (retrieval.partner_ranks(same, same) == 4).all()


def test_nearest_label_agreement_equals_scikit_learn_leave_one_out():
    features = noisy_pair()[0]
    labels = np.random.default_rng(1).integers(0, 3, 50)
    found = retrieval.nearest_label_agreement(features, labels)
    hits = []
    for i in range(50):
        rest = np.arange(50) != i
        model = KNeighborsClassifier(1, metric="cosine").fit(features[rest], labels[rest])
        hits.append(model.predict(features[i : i + 1])[0] == labels[i])
    assert found == pytest.approx(np.mean(hits))


def test_unlabeled_clips_agree_with_nobody():
    features = noisy_pair()[0]
    labels = np.random.default_rng(1).integers(0, 3, 50)
    hidden = np.where(np.arange(50) % 2, labels, -1)
    assert retrieval.nearest_label_agreement(features, hidden) == retrieval.nearest_label_agreement(features[1::2], labels[1::2])


def test_same_video_equals_scikit_learn():
    queries, gallery = noisy_pair(noise=2.0)
    found = retrieval.same_video(queries, gallery)
    scores = cosine_similarity(queries, gallery)
    for k in (1, 5, 10):
        assert found[f"r{k}"] == pytest.approx(top_k_accuracy_score(np.arange(50), scores, k=k, labels=np.arange(50)))
    places = [list(np.argsort(-row)).index(i) + 1 for i, row in enumerate(scores)]
    assert found["median_rank"] == np.median(places) > 1
    precisions = [average_precision_score(np.arange(50) == i, row) for i, row in enumerate(scores)]
    assert found["map"] == pytest.approx(np.mean(precisions)) and found["queries"] == 50


def test_same_video_needs_as_many_rows():
    queries, gallery = noisy_pair()
    with pytest.raises(ValueError, match="row i belongs to row i: 49 queries"):
        retrieval.same_video(queries[1:], gallery)


def plain_same_class(scores, labels, gallery_labels, own=None):
    """Ranks of the first hit and scikit-learn's average precision, clip by clip; `own` leaves row i out for query i."""
    ranks, precisions = [], []
    for i, row in enumerate(scores):
        keep = np.arange(len(row)) != (i if own else -1)
        row, right = row[keep], (gallery_labels == labels[i])[keep]
        if right.any():
            ranks.append(1 + (row[~right] >= row[right].max()).sum())
            precisions.append(average_precision_score(right, row))
    ranks = np.array(ranks)
    return {f"r{k}": (ranks <= k).mean() for k in (1, 5, 10)} | {
        "median_rank": np.median(ranks),
        "map": pytest.approx(np.mean(precisions)),
        "queries": len(ranks),
        "left_out": len(scores) - len(ranks),
    }


def signs(n, seed):
    """Rows of 16 values ±1, whose similarities are exact and often equal."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (n, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "ties", "collapsed"])
def test_same_class_equals_scikit_learn_and_counts_absent_classes(kind):
    queries, gallery = (signs(40, 0), signs(90, 1)) if kind == "ties" else (noisy_pair(40, 16)[0], noisy_pair(90, 16)[1])
    if kind == "collapsed":
        queries, gallery = np.ones_like(queries), np.ones_like(gallery)
    draw = np.random.default_rng(2)
    labels, gallery_labels = draw.integers(0, 30, 40), draw.integers(0, 25, 90)
    found = retrieval.same_class(queries, labels, gallery, gallery_labels)
    scores = queries @ gallery.T / 16 if kind == "ties" else cosine_similarity(queries, gallery)
    assert found == plain_same_class(scores, labels, gallery_labels) and found["left_out"] > 0
    assert 0 < found["r5"] < 1 or kind == "collapsed"


@pytest.mark.parametrize("features", [signs(60, 0), noisy_pair(60)[0]])
def test_a_set_against_itself_finds_no_clip_by_itself(features):
    labels = np.random.default_rng(3).integers(0, 25, 60)
    labels[7] = 99  # the only one of its class
    found = retrieval.same_class(features, labels, features, labels, exclude_self=True)
    lengths = np.linalg.norm(features, axis=1)
    scores = features @ features.T / np.outer(lengths, lengths)
    assert found == plain_same_class(scores, labels, labels, own=True) and found["left_out"] >= 1
    assert retrieval.same_class(features, labels, features, labels)["r1"] == 1


def test_unlabeled_clips_neither_ask_nor_answer():
    features, other = noisy_pair(60)
    labels = np.random.default_rng(3).integers(0, 5, 60)
    hidden = np.where(np.arange(60) % 3, labels, -1)
    keep = hidden >= 0
    expected = retrieval.same_class(features[keep], labels[keep], other[keep], labels[keep])
    assert retrieval.same_class(features, hidden, other, hidden) == expected
    expected = retrieval.same_class(features[keep], labels[keep], features[keep], labels[keep], exclude_self=True)
    assert retrieval.same_class(features, hidden, features, hidden, exclude_self=True) == expected


def test_same_class_names_what_does_not_fit():
    features, labels = noisy_pair(6)[0], np.arange(6)
    with pytest.raises(ValueError, match=r"gallery: expected features \[n, D\] and labels \[n\]"):
        retrieval.same_class(features, labels, features, labels[1:])
    with pytest.raises(ValueError, match="their labels differ"):
        retrieval.same_class(features, labels, features, labels[::-1], exclude_self=True)
    with pytest.raises(ValueError, match="of 6 labeled queries none"):
        retrieval.same_class(features, labels, features, labels, exclude_self=True)


def clusters(seed, unlabeled=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, 90)
    values = np.eye(3)[labels] @ np.full((3, 5), 1.0) * 0 + np.eye(3, 5)[labels] * 4 + draw.normal(size=(90, 5))
    labels[:unlabeled] = -1
    return Features(values.astype(np.float32), labels.astype(np.int32), np.arange(90))


def test_the_probe_reads_separable_labels_and_leaves_unlabeled_clips_out():
    assert linear_probe(clusters(0, unlabeled=10), clusters(1, unlabeled=10)) > 0.9
    shuffled = clusters(1)
    np.random.default_rng(5).shuffle(shuffled.labels)
    assert linear_probe(clusters(0), shuffled) < 0.5


def test_the_probe_needs_two_classes():
    with pytest.raises(ValueError, match="two labeled classes"):
        linear_probe(clusters(0, unlabeled=90), clusters(1))
