"""Retrieval by cosine similarity of features."""

import numpy as np


def cosine(queries, gallery) -> np.ndarray:
    """Cosine similarity float32 [q, g] of rows [q, D] and [g, D]."""
    queries, gallery = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (queries, gallery))
    return queries @ gallery.T


def partner_ranks(queries, gallery) -> np.ndarray:
    """The rank of row i of `gallery` among all rows for query i, int64 [n]; 1 is nearest, and ties count against it."""
    similarity = cosine(queries, gallery)
    return (similarity >= np.diag(similarity)[:, None]).sum(1)


def recall(ranks, k: int) -> float:
    """The share (0..1) of queries whose partner is among the nearest `k`."""
    return float((ranks <= k).mean())


def nearest_label_agreement(features, labels) -> float:
    """The share (0..1) of clips whose nearest other clip has the same label (1-nearest-neighbour, leave one out)."""
    similarity = cosine(features, features)
    np.fill_diagonal(similarity, -np.inf)
    return float((labels[similarity.argmax(1)] == labels).mean())
