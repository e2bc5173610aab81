"""Retrieval and probe against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from cvmae.evaluation import retrieval
from cvmae.evaluation.features import Features
from cvmae.evaluation.probe import linear_probe


def noisy_pair(n=50, width=8, noise=1.0):
    draw = np.random.default_rng(0)
    a = draw.normal(size=(n, width))
    return a, a + noise * draw.normal(size=(n, width))


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_equals_top_k_accuracy_of_scikit_learn(k):
    queries, gallery = noisy_pair()
    found = retrieval.recall(retrieval.partner_ranks(queries, gallery), k)
    scores = retrieval.cosine(queries, gallery)
    assert found == pytest.approx(top_k_accuracy_score(np.arange(50), scores, k=k, labels=np.arange(50)))
    assert 0 < found < 1 or k == 10


def test_cosine_ignores_length():
    queries, gallery = noisy_pair()
    np.testing.assert_allclose(retrieval.cosine(queries * 9, gallery), retrieval.cosine(queries, gallery))


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


def clusters(seed, unlabelled=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, 90)
    values = np.eye(3)[labels] @ np.full((3, 5), 1.0) * 0 + np.eye(3, 5)[labels] * 4 + draw.normal(size=(90, 5))
    labels[:unlabelled] = -1
    return Features(values.astype(np.float32), labels.astype(np.int32), np.arange(90))


def test_the_probe_reads_separable_labels_and_leaves_unlabelled_clips_out():
    assert linear_probe(clusters(0, unlabelled=10), clusters(1, unlabelled=10)) > 0.9
    shuffled = clusters(1)
    np.random.default_rng(5).shuffle(shuffled.labels)
    assert linear_probe(clusters(0), shuffled) < 0.5


def test_the_probe_needs_two_classes():
    with pytest.raises(ValueError, match="two labelled classes"):
        linear_probe(clusters(0, unlabelled=90), clusters(1))
