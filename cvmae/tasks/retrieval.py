"""Video retrieval: test clips look for training clips of their class, and for the other clip of their own video."""

from cvmae.config import ConfigError
from cvmae.evaluation.features import mean_over_clips
from cvmae.evaluation.retrieval import same_class, same_video
from cvmae.tasks.frozen import FrozenTask, check_labeled, first_two_clips


class Retrieval(FrozenTask):
    """Retrieval by cosine similarity of pooled features."""

    MULTI_LABEL_NOTE = "relevant: at least one label shared"

    def compute(self, weights, workdir) -> dict[str, float]:
        """Returns `same_class/NAME` where both splits have labels, and `same_video/NAME` with two clips a video or more."""
        every = self.both_splits(weights, workdir)
        gallery, queries = map(mean_over_clips, every)
        metrics: dict[str, float] = {}
        if self.config.features.clips > 1:
            metrics |= {f"same_video/{name}": value for name, value in same_video(*first_two_clips(every[1])).items()}
        if (gallery.labels >= 0).any() and (queries.labels >= 0).any():
            try:
                labels, gallery_labels = map(self.labels_of, (queries, gallery))
                by_class = same_class(queries.values, labels, gallery.values, gallery_labels)
            except ValueError as error:  # the two splits share no class
                raise ConfigError(f"config.data.split and config.data.test_split: {error}") from error
            metrics |= {f"same_class/{name}": value for name, value in by_class.items()}
        if not metrics:
            check_labeled(self.config, gallery, queries)
        return metrics
