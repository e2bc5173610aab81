"""The report of pre-training: every number of `HeldOut` on clips not trained on, retrieval, linear probe and a vote of neighbors."""

import numpy as np

from cvmae.data.labels import label_sets_of
from cvmae.evaluation.diagnostics import effective_rank, linear_cka
from cvmae.evaluation.features import Features, extract
from cvmae.evaluation.heldout import HeldOut
from cvmae.evaluation.knn import knn_report
from cvmae.evaluation.retrieval import nearest_label_agreement, partner_ranks, recall
from cvmae.objective import registered_terms

NEIGHBORS = 20  # of the vote, DINO's
ONLY_IN_FILES = ("knn/accuracy", "effective_rank/image")  # rows of report.json and the HTML page, not of the printed table


def evaluate_pretraining(held_out: HeldOut, params, train_source, labeled: int, clips: int) -> dict[str, float]:
    """Computes every number of the report of pre-training for one set of parameters.

    Args:
      held_out: the held-out clips.
      params: parameters of the full model.
      train_source: labeled training clips for the linear probe.
      labeled: the number of them to fit the probe on.
      clips: the number of held-out clips to score the probe on; 0 takes all.

    Returns:
      {name: value}: `reconstruction/*` errors, `accuracy/*` of the contrastive terms and `gray_accuracy/*` of the same clips in
      gray, `retrieval/*`, `effective_rank/BRANCH` and `cka/video_image` of features of unmasked clips, and `probe/accuracy` and
      `knn/accuracy`; accuracies and recalls are fractions in 0..1. The last two are
      absent where training or held-out clips cannot be a measure, see `unprobed`; the nearest label where the held-out ones are not.
    """
    config, encoder = held_out.objective.config, params["video"]["encoder"]
    metrics, features = held_out.report(params)
    ranks = partner_ranks(features["v"], features["v_plus"])
    metrics |= {"retrieval/same_clip_r1": recall(ranks, 1), "retrieval/same_clip_r5": recall(ranks, 5)}
    metrics["retrieval/median_rank"] = float(np.median(ranks))
    metrics["effective_rank/video"] = effective_rank(features["v"])
    if "frames" in features:
        metrics["effective_rank/image"] = effective_rank(features["frames"])
        alignment = linear_cka(features["v"], features["frames"])
        metrics |= {"cka/video_image": alignment} if np.isfinite(alignment) else {}  # JSON has no NaN
    test = extract(config, encoder, held_out.source, clips, encode=held_out.encode)
    # A linear probe and a nearest clip of one class each are no measure of clips with several labels: these count as unlabeled.
    if label_sets_of(held_out.source) is None and _num_classes(test.labels) > 1:
        metrics["retrieval/same_label_1nn"] = nearest_label_agreement(test.values, test.labels)
        train = extract(config, encoder, train_source, labeled, encode=held_out.encode)
        if _num_classes(train.labels) > 1:
            metrics |= {"probe/accuracy": linear_probe(train, test), "knn/accuracy": vote_of_neighbors(train, test)}
    return metrics


def unprobed(source) -> str:
    """Returns why there is no linear probe on the clips of a source, as the end of a sentence about them; empty where there is one."""
    if label_sets_of(source) is not None:
        return "have several labels each"
    count = _num_classes(source.labels)
    return {0: "have no labels", 1: "are of one class"}.get(count, "")


def _num_classes(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels >= 0]))


def report_table(trained: dict[str, float], untrained: dict[str, float] | None = None, clips: str = "not trained on") -> str:
    """Formats the numbers of `evaluate_pretraining` as a table, untrained and trained side by side; `clips` says on which clips."""
    columns = {"untrained": untrained or {}, "trained": trained}
    grays = [name for name, *_ in report_rows() if name.startswith("gray_accuracy/") and name in trained]
    gray, hidden = "".join(grays[:1]), {*grays[1:], *ONLY_IN_FILES}  # of the terms, the first in gray is enough
    lines = [f"{f'on clips {clips}':<38}" + "".join(f"{name:>11}" for name, numbers in columns.items() if numbers)]
    for name, title, is_fraction in report_rows():
        if name in trained and name not in hidden:
            title = "  the same clips in gray" if name == gray else title
            cells = (f"{100 * v[name]:.1f} %" if is_fraction else f"{v[name]:.3f}" for v in columns.values() if v)
            lines.append(f"{title:<38}" + "".join(f"{cell:>11}" for cell in cells))
        if name == "reconstruction/model" and name in trained:
            for baseline in ("mean_patch", "nearest_patch"):
                title = f"  baseline: {baseline.replace('_', ' ')}"
                lines.append(f"{title:<38}{trained[f'reconstruction/{baseline}']:>{22 if untrained else 11}.3f}")
    return "\n".join(lines)


def linear_probe(train: Features, test: Features, strength: float = 0.1) -> float:
    """Returns the test accuracy (0..1) of logistic regression on standardized features (scikit-learn).

    Args:
      train: labeled features to fit.
      test: labeled features of other videos.
      strength: scikit-learn's C, the inverse of the l2 penalty.

    Raises:
      ValueError: fewer than two classes are labeled.
    """
    # Imported here because it takes a second, which no start of a run should wait for.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit, score = _labeled(train), _labeled(test)
    classes = np.unique(train.labels[fit])
    if len(classes) < 2:
        raise ValueError(f"a linear probe needs two labeled classes, the training clips have {len(classes)}")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    model.fit(train.values[fit], train.labels[fit])
    return float(model.score(test.values[score], test.labels[score]))


def vote_of_neighbors(train: Features, test: Features) -> float:
    """Returns the test accuracy (0..1) of the vote of the NEIGHBORS nearest labeled training clips, see `knn`."""
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    return knn_report(train.values, train.labels, test.values, test.labels, classes, (NEIGHBORS,))[f"top1/k={NEIGHBORS}"]


def _labeled(features: Features):
    return features.labels >= 0


def report_rows() -> list[tuple[str, str, bool]]:
    """Returns (name, title, True for a fraction in 0..1) of the numbers that a report shows, in order.

    A registered loss term with a title has a row for its accuracy, so this is not a constant.
    """
    accuracies = [
        (f"{prefix}accuracy/{term.name}", f"{term.title}{color}", True)
        for term in registered_terms()
        if term.title
        for prefix, color in (("", ""), ("gray_", ", in gray"))
    ]
    return [
        ("reconstruction/model", "held-out reconstruction error", False),
        *accuracies,
        ("retrieval/same_clip_r1", "retrieval of the same clip, R@1", True),
        ("retrieval/same_clip_r5", "retrieval of the same clip, R@5", True),
        ("retrieval/same_label_1nn", "nearest clip has the same label", True),
        ("probe/accuracy", "linear probe", True),
        ("knn/accuracy", f"vote of {NEIGHBORS} nearest labeled clips", True),
        ("effective_rank/video", "effective rank of video features", False),
        ("effective_rank/image", "effective rank of image features", False),
        ("cka/video_image", "CKA of video and image features", False),
    ]
