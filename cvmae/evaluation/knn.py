"""Classification by the labels of the nearest training clips.

The vote is that of instance discrimination (Wu et al. 2018) and DINO: each of the k nearest by cosine similarity votes for its
label with weight exp(similarity / temperature).
"""

import math

import numpy as np

from cvmae.evaluation.classification import TOP, check_labels, top_k_accuracy
from cvmae.evaluation.nearest import nearest

KS, TEMPERATURE = (10, 20, 100, 200), 0.07  # DINO's


def knn_probabilities(train, train_labels, test, classes: int, k: int, temperature: float = TEMPERATURE) -> np.ndarray:
    """Each class's share of the vote, float32 [n, classes]; rows sum to 1.

    Args:
      train: features [m, D].
      train_labels: int [m]; clips with -1 do not vote.
      test: features [n, D].
      classes: how many there are.
      k: how many vote; cut to the number of labeled training clips.
      temperature: above 0; `inf` gives every neighbor the same weight. Towards 0 the nearest decides alone.

    Raises:
      ValueError: no labeled training clip, a label not below `classes`, a temperature or k that is not above 0, or
        features that cannot be compared.
    """
    similarity, votes = _neighbors(train, train_labels, test, classes, [k])
    return _vote(similarity, votes, classes, temperature)


def knn_report(train, train_labels, test, test_labels, classes: int, ks=KS, temperature: float = TEMPERATURE) -> dict[str, float]:
    """`top1/k=10`, `top5/k=10` and so on for every k, shares (0..1) of the labeled test clips, from one search.

    A k larger than the labeled gallery is cut to it and keeps its name. Ties among classes go to the lower number (see
    `classification`): with fewer voted classes than places, top-5 takes the first of those without a vote.
    """
    similarity, votes = _neighbors(train, train_labels, test, classes, ks)
    found = {}
    for k in ks:
        probabilities = _vote(similarity[:, :k], votes[:, :k], classes, temperature)
        for top in (1, TOP):
            found[f"top{top}/k={k}"] = top_k_accuracy(probabilities, test_labels, top)
    return found


def _neighbors(train, labels, test, classes, ks):
    """Similarity and labels of the nearest labeled clips, each [n, at most the largest of ks]."""
    train, labels = np.asarray(train), np.asarray(labels)
    if labels.shape != train.shape[:1]:
        raise ValueError(f"expected train [m, D] and train_labels [m], not {train.shape} and {labels.shape}")
    check_labels(labels, classes)
    train, labels = train[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise ValueError("no training clip has a label (0 or more): nearest neighbors vote with their labels")
    if min(ks) < 1:
        raise ValueError(f"a vote needs a k of 1 or more, not {min(ks)}")
    index, similarity = nearest(test, train, min(max(ks), len(train)))
    return similarity, labels[index]


def _vote(similarity, votes, classes, temperature):
    if not temperature > 0:
        raise ValueError(f"the temperature of the vote must be above 0 (inf: equal weights), not {temperature}")
    weights = np.ones_like(similarity)
    if not math.isinf(temperature):
        weights = np.exp((similarity - similarity[:, :1]) / np.float32(temperature))  # the nearest has 1: no overflow
    places = np.arange(len(votes))[:, None] * classes + votes
    total = np.bincount(places.ravel(), weights.ravel(), len(votes) * classes).reshape(len(votes), classes)
    return (total / total.sum(1, keepdims=True)).astype(np.float32)
