"""Simple baselines on a labeled set of short clips: what raw pixels tell about the classes, with and without the order of frames.

    python -m cvmae.data.baselines --manifest=metaworld/task.csv --test_splits=val,test,test_unseen

fits logistic regression to features of the training clips and prints the accuracy on other splits. A number of a trained encoder
on the same splits means something only beside these.
"""

from cvmae.data.baselines.features import FEATURES
from cvmae.data.baselines.logistic import accuracies, draws, table

__all__ = ["FEATURES", "accuracies", "draws", "table"]
