"""The vote of the nearest neighbors: training clips, by their features, name the class of each test clip."""

from cvmae.config import require
from cvmae.evaluation.features import mean_over_clips
from cvmae.evaluation.knn import knn_report, multi_label_knn_report
from cvmae.tasks.classification import highest_class, no_class
from cvmae.tasks.frozen import FrozenTask, check_labeled


class Knn(FrozenTask):
    """Weighted k-nearest-neighbor classification (Wu et al. 2018), as DINO evaluates."""

    MULTI_LABEL_NOTE = "vote: each neighbor votes for each of its labels"

    def compute(self, weights, workdir) -> dict[str, float]:
        """Returns top-1 and top-5 of the vote for each k of config.knn, of clips with several labels mAP; fractions in 0..1."""
        if self.label_sets is not None:
            for field, source in self.sources.items():
                require(highest_class(source) >= 0, no_class(self.config, field))
        gallery, queries = map(mean_over_clips, self.both_splits(weights, workdir))
        check_labeled(self.config, gallery, queries)
        c = self.config.knn
        if self.label_sets is not None:
            labels, test_labels = map(self.labels_of, (gallery, queries))
            require(bool((test_labels > 0).any()), no_class(self.config, "test_split"))  # those that have one cannot be read
            return multi_label_knn_report(gallery.values, labels, queries.values, test_labels, c.neighbours, c.temperature)
        num_classes = int(max(gallery.labels.max(), queries.labels.max())) + 1
        return knn_report(
            gallery.values, gallery.labels, queries.values, queries.labels, num_classes, c.neighbours, c.temperature
        )
