"""Linear probe: how much of the labels a linear classifier reads out of frozen features."""

import numpy as np

from cvmae.evaluation.features import Features


def linear_probe(train: Features, test: Features, strength: float = 0.1) -> float:
    """Test accuracy (0..1) of logistic regression on standardised features (scikit-learn).

    Args:
      train: labelled features to fit.
      test: labelled features of other videos.
      strength: scikit-learn's C, the inverse of the l2 penalty.

    Raises:
      ValueError: fewer than two classes have labels.
    """
    # Takes a second to import, which no start of a run should wait for.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit, score = _labelled(train), _labelled(test)
    classes = np.unique(train.labels[fit])
    if len(classes) < 2:
        raise ValueError(f"a linear probe needs two labelled classes, the training clips have {len(classes)}")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    model.fit(train.values[fit], train.labels[fit])
    return float(model.score(test.values[score], test.labels[score]))


def _labelled(features: Features):
    return features.labels >= 0
