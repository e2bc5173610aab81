"""k-nearest-neighbor classification of clips by the labels of training clips.

The vote is that of instance discrimination (Wu et al. 2018) and DINO: each of the k nearest clips by cosine similarity votes for
its label with weight exp(similarity / temperature).
"""

import math

import numpy as np

from cvmae.evaluation.classification import TOP, check_labels, top_k_accuracy
from cvmae.evaluation.multi_label import MAP, has_label, mean_average_precision
from cvmae.evaluation.nearest import nearest

KS, TEMPERATURE = (10, 20, 100, 200), 0.07  # DINO's


def knn_report(train, train_labels, test, test_labels, classes: int, ks=KS, temperature: float = TEMPERATURE) -> dict[str, float]:
    """Computes the top-1 and top-5 accuracy (0..1) of the vote on labeled test clips for every k, from one search.

    Ties among classes go to the lower number (see `classification`): if fewer than 5 classes have votes, top-5 is filled with
    the first of the classes without votes.

    Args:
      train: features [m, D].
      train_labels: int [m]; clips with -1 do not vote.
      test: features [n, D].
      test_labels: int [n], -1 unlabeled.
      classes: the number of classes.
      ks: numbers of neighbors; more than the labeled training clips means all of them.
      temperature: above 0; `inf` gives every neighbor the same weight, near 0 the nearest one decides.

    Returns:
      {`top1/k=10`: accuracy, `top5/k=10`: accuracy, ...}.

    Raises:
      ValueError: no labeled training clip, a label not below `classes`, a temperature or k that is not above 0, or
        features that cannot be compared.
    """
    similarity, labels = nearest_labels(train, train_labels, test, classes, ks)
    accuracies = {}
    for k in ks:
        probabilities = vote(similarity[:, :k], labels[:, :k], classes, temperature)
        for top in (1, TOP):
            accuracies[f"top{top}/k={k}"] = top_k_accuracy(probabilities, test_labels, top)
    return accuracies


def multi_label_knn_report(train, train_labels, test, test_labels, ks=KS, temperature: float = TEMPERATURE) -> dict[str, float]:
    """Computes mAP (0..1) of the vote on labeled test clips for every k; each neighbor votes for each of its labels.

    The score of a class is the sum of the weights of the neighbors that have it, over the sum of all weights; mAP is over classes
    that a test clip has, see `multi_label`.

    Args:
      train: features [m, D].
      train_labels: int8 or bool [m, C], see `multi_label`; clips without a label do not vote.
      test: features [n, D].
      test_labels: int8 or bool [n, C]; clips without a label are left out.
      ks: numbers of neighbors; more than the labeled training clips means all of them.
      temperature: see `knn_report`.

    Returns:
      {`mAP/k=10`: mAP, ...}.

    Raises:
      ValueError: no labeled clip on one of the sides, a temperature or k that is not above 0, or features or labels that do not
        fit.
    """
    train_labels = np.asarray(train_labels)
    rows = np.where(has_label(train_labels), np.arange(len(train_labels)), -1)
    similarity, neighbors = nearest_labels(train, rows, test, len(rows), ks)
    return {
        f"{MAP}/k={k}": mean_average_precision(
            _vote_for_each(similarity[:, :k], train_labels > 0, neighbors[:, :k], temperature), test_labels
        )
        for k in ks
    }


def _vote_for_each(similarity, labels, neighbors, temperature):
    """Returns the fraction of the votes for each label, float32 [n, C]; labels: bool [m, C], neighbors: its rows [n, k]."""
    weights = _weights(similarity, temperature)
    scores = np.zeros((len(similarity), labels.shape[1]), np.float64)
    for weight, rows in zip(weights.T, neighbors.T):  # one neighbor of all clips at a time: [n, k, C] may be gigabytes
        scores += weight[:, None] * labels[rows]
    return (scores / weights.sum(1, keepdims=True)).astype(np.float32)


def nearest_labels(train, labels, test, classes, ks):
    """Returns similarity and labels of the nearest labeled training clips, each [n, at most max(ks)], nearest first.

    Arguments and errors as in `knn_report`.
    """
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


def vote(similarity, labels, classes, temperature):
    """Returns the fraction of the weighted votes of k neighbors [n, k] for each class, float32 [n, classes]; rows sum to 1.

    Args:
      similarity: cosine similarity of the neighbors, nearest first.
      labels: labels of the neighbors.
      classes: the number of classes.
      temperature: see `knn_report`.

    Raises:
      ValueError: the temperature is not above 0.
    """
    weights = _weights(similarity, temperature)
    bins = np.arange(len(labels))[:, None] * classes + labels
    total = np.bincount(bins.ravel(), weights.ravel(), len(labels) * classes).reshape(len(labels), classes)
    return (total / total.sum(1, keepdims=True)).astype(np.float32)


def _weights(similarity, temperature):
    """Returns the weights of the neighbors' votes, [n, k], 1 for the nearest. Raises: ValueError, see `vote`."""
    if not temperature > 0:
        raise ValueError(f"the temperature of the vote must be above 0 (inf: equal weights), not {temperature}")
    if math.isinf(temperature):
        return np.ones_like(similarity)
    return np.exp((similarity - similarity[:, :1]) / np.float32(temperature))  # at most 1: no overflow
