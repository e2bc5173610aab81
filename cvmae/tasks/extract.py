"""Feature extraction: a file of features for each video, one row a window."""

from cvmae.evaluation.extract import extract_features
from cvmae.evaluation.features import FeatureSpec
from cvmae.parallel.processes import log_once
from cvmae.tasks.frozen import FrozenTask, bad_files_note
from cvmae.workdir import FEATURES


class Extract(FrozenTask):
    """Features of config.data.split in the folder `features` of the workdir; see `evaluation.extract`."""

    def compute(self, weights, workdir) -> dict[str, float]:
        """Returns the numbers of the folder as it is after the run, and of what the run wrote; see `extract_features`."""
        c = self.config.extract
        counts = extract_features(
            self.config,
            weights,
            self.sources["split"],
            workdir / FEATURES,
            FeatureSpec(c.layer, c.tokens),
            window_stride=c.window_stride,
            format=c.format,
            dtype=c.dtype,
            placement=self.placement,
        )
        if counts["unreadable"]:
            log_once(bad_files_note(counts["unreadable"], counts["videos"], workdir / FEATURES))
        return dict(counts)
