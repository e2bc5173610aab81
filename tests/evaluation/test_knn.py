"""The vote of the nearest neighbors against a plain statement of it and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cvmae.evaluation import knn

CLASSES = 7


def made(n, seed, classes=CLASSES):
    """Features around one center a class, and labels."""
    centers = np.random.default_rng(99).normal(size=(classes, 12))
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    return (centers[labels] + 1.5 * draw.normal(size=(n, 12))).astype(np.float32), labels


def probabilities(train, labels, test, classes, k, temperature=knn.TEMPERATURE):
    """The vote of the k nearest training clips, [n, classes], as `knn_report` takes it."""
    return knn.vote(*knn.nearest_labels(train, labels, test, classes, [k]), classes, temperature)


def plain_vote(train, labels, test, k, temperature):
    """exp(cosine / temperature) of the k nearest, summed by label, over the sum; in float64."""
    train, test = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (train, test))
    found = np.zeros((len(test), CLASSES))
    for row, query in zip(found, test):
        similarity = train @ query
        for i in sorted(range(len(train)), key=lambda i: -similarity[i])[:k]:
            row[labels[i]] += math.exp(similarity[i] / temperature)
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("k", [1, 10, 33])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_vote_is_the_softmax_of_cosine_over_the_nearest(k, temperature):
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    found = probabilities(train, labels, test, CLASSES, k, temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_vote(train, labels, test, k, temperature), rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 33])
def test_equal_weights_are_scikit_learns_neighbors(k):
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    model = KNeighborsClassifier(k, metric="cosine").fit(train, labels)
    found = probabilities(train, labels, test, CLASSES, k, math.inf)
    np.testing.assert_allclose(found, model.predict_proba(test), rtol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), model.predict(test))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weights_are_those_given_to_scikit_learn(temperature):
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    found = probabilities(train, labels, test, CLASSES, 20, temperature)
    np.testing.assert_allclose(found, model.fit(train, labels).predict_proba(test), rtol=1e-4, atol=1e-7)


def test_a_small_temperature_does_not_overflow_and_the_nearest_decides():
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    found = probabilities(train, labels, test, CLASSES, 20, 1e-4)
    alone = probabilities(train, labels, test, CLASSES, 1)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(1), alone.argmax(1))


def test_unlabeled_clips_do_not_vote():
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    hidden = np.where(np.arange(80) % 2, labels, -1)
    found = probabilities(train, hidden, test, CLASSES, 5)
    np.testing.assert_array_equal(found, probabilities(train[1::2], labels[1::2], test, CLASSES, 5))


def test_k_is_cut_with_the_gallery():
    train, labels = made(80, 0)
    test, _ = made(40, 1)
    found = probabilities(train, labels, test, CLASSES, 200)
    np.testing.assert_allclose(found, plain_vote(train, labels, test, 80, 0.07), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [{}, {"temperature": 0.5}])
def test_the_report_has_every_k(temperature):
    train, labels = made(150, 0)
    test, expected = made(60, 1)
    unlabeled = np.where(np.arange(60) % 5, expected, -1)
    report = knn.knn_report(train, labels, test, unlabeled, CLASSES, **temperature)
    assert list(report) == [f"top{top}/k={k}" for k in (10, 20, 100, 200) for top in (1, 5)]
    keep = unlabeled >= 0
    for k in (10, 20, 100, 200):
        votes = plain_vote(train, labels, test, min(k, 150), temperature.get("temperature", 0.07))[keep]
        order = np.argsort(-votes, axis=1, kind="stable")  # classes without a vote tie: the lower number first
        for top in (1, 5):
            assert report[f"top{top}/k={k}"] == pytest.approx((order[:, :top] == expected[keep, None]).any(1).mean())
    assert len({report[f"top1/k={k}"] for k in (10, 20, 100, 200)}) > 1 or not temperature


def test_the_report_passes_the_temperature_on():
    train, labels = made(80, 0)
    test, expected = made(60, 1)
    report = knn.knn_report(train, labels, test, expected, CLASSES, ks=(33,), temperature=math.inf)
    model = KNeighborsClassifier(33, metric="cosine").fit(train, labels)
    assert report["top1/k=33"] == pytest.approx(model.score(test, expected))


def test_what_cannot_vote_is_said():
    train, labels = made(20, 0)
    with pytest.raises(ValueError, match="no training clip has a label"):
        probabilities(train, np.full(20, -1), train, CLASSES, 3)
    with pytest.raises(ValueError, match="has the label 6, but there are 6 classes"):
        probabilities(train, np.full(20, 6), train, 6, 3)
    with pytest.raises(ValueError, match="temperature of the vote must be above 0"):
        probabilities(train, labels, train, CLASSES, 3, 0.0)
    with pytest.raises(ValueError, match="k of 1 or more, not 0"):
        knn.knn_report(train, labels, train, labels, CLASSES, ks=(0, 5))
    with pytest.raises(ValueError, match=r"train_labels \[m\], not \(20, 12\) and \(19,\)"):
        probabilities(train, labels[1:], train, CLASSES, 3)
