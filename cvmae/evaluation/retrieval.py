"""Retrieval metrics of clips by cosine similarity of their features: of the same clip or video, and of the same class."""

import numpy as np

from cvmae.evaluation import nearest

RECALLS = (1, 5, 10)


def partner_ranks(queries, gallery) -> np.ndarray:
    """Computes the rank of row i of `gallery` among all rows for query i, int64 [n]; 1 is nearest, ties count against it."""
    if len(queries) != len(gallery):
        raise ValueError(f"row i belongs to row i: {len(queries)} queries need as many gallery rows, not {len(gallery)}")
    return nearest.partner_ranks(queries, gallery)


def recall(ranks, k: int) -> float:
    """Returns the fraction (0..1) of queries whose partner is among the nearest `k`."""
    return float((ranks <= k).mean())


def nearest_label_agreement(features, labels) -> float:
    """Returns the leave-one-out 1-NN accuracy: the fraction (0..1) of labeled clips whose nearest other one has the same label."""
    labels = np.asarray(labels)
    features, labels = np.asarray(features)[labels >= 0], labels[labels >= 0]
    index, _ = nearest.nearest(features, features, 1, exclude_self=True)
    return float((labels[index[:, 0]] == labels).mean())


def same_video(queries, gallery) -> dict[str, float]:
    """Computes retrieval metrics for query i and its partner, row i of the gallery: another clip or view of the same video.

    Args:
      queries: [n, D].
      gallery: [n, D].

    Returns:
      `r1`, `r5`, `r10` (recall, 0..1), `median_rank` (1 is best), `map` (mean average precision, here the mean of 1 / rank)
      and `queries` (their number). Ties count against the partner.
    """
    ranks = partner_ranks(queries, gallery)
    return _report(ranks, 1 / ranks)


def same_class(queries, labels, gallery, gallery_labels, exclude_self: bool = False) -> dict[str, float]:
    """Computes retrieval metrics of clips of the query's class, or where clips have several labels, that share at least one.

    Args:
      queries: [q, D].
      labels: int [q]; clips with -1 are left out. Or int8 or bool [q, C], see `multi_label`; clips without any class
        are left out.
      gallery: [g, D].
      gallery_labels: int [g], or int8 or bool [g, C], as `labels`.
      exclude_self: True if the gallery is the queries again; no clip then retrieves itself.

    Returns:
      The metrics of `same_video`, for the first hit: a query's rank is 1 + the number of clips of other classes at least as
      similar as the nearest clip of its own class. `map` is over the full ranking, with ties treated as in scikit-learn's
      `average_precision_score`. Queries whose class is not in the gallery are excluded and counted in `left_out`; `queries`
      counts the others.

    Raises:
      ValueError: features and labels do not match, or no query has its class in the gallery.
    """
    queries, labels = _labeled(queries, labels, "queries")
    gallery, gallery_labels = _labeled(gallery, gallery_labels, "gallery")
    if exclude_self and not np.array_equal(labels, gallery_labels):
        raise ValueError("exclude_self needs the same clips as queries and as gallery: their labels differ")
    has, hits_of = (_sharing if labels.ndim == 2 else _members)(labels, gallery_labels, exclude_self)
    if not has.any():
        raise ValueError(f"of {len(labels)} labeled queries none has a clip of its class in a gallery of {len(gallery_labels)}")
    numbers, ranks_and_precisions = np.flatnonzero(has), []
    for number, row in zip(numbers, nearest.similarity_rows(queries[has], gallery)):
        hits = hits_of(number)
        if exclude_self:
            ranks_and_precisions.append(_rank_and_precision(row[hits[hits != number]], np.delete(row, number)))
        else:
            ranks_and_precisions.append(_rank_and_precision(row[hits], row))
    ranks, precisions = np.array(ranks_and_precisions).T
    return _report(ranks, precisions) | {"left_out": float(len(labels) - len(numbers))}


def _members(labels, gallery_labels, exclude_self):
    """Returns, for int labels, the queries with a hit, bool [q], and a function from the number of one to its hits, int [h]."""
    members = {label: np.flatnonzero(gallery_labels == label) for label in np.unique(gallery_labels)}
    has = np.array([len(members.get(label, ())) > exclude_self for label in labels], bool)
    return has, lambda number: members[labels[number]]


def _sharing(labels, gallery_labels, exclude_self):
    """Returns the same as `_members` for bool labels, where a hit shares at least one label with the query."""
    has = (labels & (gallery_labels.sum(0) > exclude_self)).any(1)
    return has, lambda number: np.flatnonzero(gallery_labels[:, labels[number]].any(1))


def _rank_and_precision(hits, every):
    """Returns the rank of the first hit and the average precision of a query, from its similarity to hits [h] and all clips [g]."""
    hits, every = np.sort(hits), np.sort(every)
    hits_above = len(hits) - np.searchsorted(hits, hits)  # the number of hits at least as similar as each hit
    above = len(every) - np.searchsorted(every, hits)
    return 1 + above[-1] - hits_above[-1], (hits_above / above).mean()


def _report(ranks, precisions):
    recalls = {f"r{k}": recall(ranks, k) for k in RECALLS}
    return recalls | {"median_rank": float(np.median(ranks)), "map": float(precisions.mean()), "queries": float(len(ranks))}


def _labeled(features, labels, name):
    features, labels = np.asarray(features), np.asarray(labels)
    if labels.dtype == np.int8:  # a clip of none of the classes shares none, as one without a label
        labels = labels > 0
    shape = features.shape[:1] if labels.dtype != bool else (*features.shape[:1], *labels.shape[1:2])
    if features.ndim != 2 or labels.shape != shape or labels.ndim != 1 + (labels.dtype == bool):
        raise ValueError(f"{name}: expected features [n, D] and labels [n], not {features.shape} and {labels.shape}")
    keep = labels.any(1) if labels.ndim == 2 else labels >= 0
    return features[keep], labels[keep]
