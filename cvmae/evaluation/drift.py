"""Drift of an encoder from the one that a run starts from, on the same held-out clips, and whether its features collapse on the way."""

import dataclasses

import numpy as np

from cvmae.evaluation.diagnostics import linear_cka
from cvmae.evaluation.features import Features, extract
from cvmae.evaluation.heldout import HeldOut


def mean_cosine(one, two) -> float:
    """Computes the mean cosine of two sets of features of the same clips: 1 where no clip has turned, whatever their lengths.

    Features of different clips have a large common part too, so the cosine of a changed encoder stays high longer than its CKA.

    Args:
      one: [n, D].
      two: [n, D], with the same clips in its rows.

    Returns:
      -1 to 1; NaN where features are zero or not finite.
    """
    one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.mean((one * two).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1))))


def deviation(features) -> float:
    """Returns the standard deviation of features [n, D] over clips, averaged over D; 0: they collapsed. See `losses.feature_std`."""
    return float(np.asarray(features, np.float64).std(0).mean())


RANK = "feature_rank/video"  # the metric of `HeldOut.terms`


@dataclasses.dataclass(frozen=True)
class Start:
    """The encoder that a run starts from, on held-out clips.

    Attributes:
      features: of unmasked clips.
      metrics: of the objective, see `HeldOut.terms`.
    """

    features: Features
    metrics: dict[str, float]


class DriftMonitor:
    """Compares the video encoder with its start on the first `clips` clips of a held-out split, unmasked and center-cropped.

    Attributes:
      collapse: the fraction of the start's feature deviation, or effective rank, below which features count as collapsed.
    """

    def __init__(self, held_out: HeldOut, clips: int, collapse: float):
        self.held_out, self.clips, self.collapse = held_out, clips, collapse

    def start(self, params) -> Start:
        """Measures the parameters of the model that a run starts from."""
        return Start(self._features(params), self.held_out.terms(params))

    def compare(self, params, start: Start) -> dict[str, float]:
        """Returns the drift of the parameters of a model; without a number that is undefined, since JSON has no NaN.

        Returns:
          `drift/cka` (0..1, see `linear_cka`), `drift/cosine` (-1..1, see `mean_cosine`), both 1 where nothing has changed, and
          `drift/std`, the deviation of features as a fraction of the start's.
        """
        now, before = self._features(params), start.features
        # A clip that one of the two passes could not read is left out of both.
        _, rows, old_rows = np.intersect1d(now.index, before.index, return_indices=True)
        values, old_values = now.values[rows], before.values[old_rows]
        spread = deviation(old_values)
        drift = {"drift/cka": linear_cka(old_values, values), "drift/cosine": mean_cosine(old_values, values)}
        drift |= {"drift/std": deviation(values) / spread} if spread else {}
        return {name: value for name, value in drift.items() if np.isfinite(value)}

    def warning(self, step: int, drift: dict[str, float], metrics: dict[str, float], start: Start) -> str:
        """Returns a line that says that features collapse, and which term moved most since the start; empty where they do not.

        Args:
          step: of the parameters.
          drift: from `compare`.
          metrics: of the objective, for the same parameters.
          start: of the run.
        """
        rank, old_rank = metrics.get(RANK, 1.0), start.metrics.get(RANK, 1.0)
        fractions = {"deviation": drift.get("drift/std", 1.0), "effective rank": rank / old_rank if old_rank else 1.0}
        what = min(fractions, key=lambda name: fractions[name])
        if not fractions[what] < self.collapse:
            return ""
        terms = {name: (start.metrics[name], metrics[name]) for name in metrics if name.startswith("loss/")}
        moved = {name: abs(now - old) / max(abs(old), 1e-12) for name, (old, now) in terms.items()}
        most = max(moved, key=lambda name: moved[name])
        changes = ", ".join(f"{name} {old:.3g} -> {now:.3g}" for name, (old, now) in terms.items())
        # The weight of the only term scales all gradients alike, which AdamW hardly notices.
        names, remedy = (
            (f"{most} moved most since then (", f"config.{most.replace('/', '.')} or ") if len(terms) > 1 else ("(", "config.")
        )
        return (
            f"warning: step {step}: the video encoder collapses: the {what} of its features over held-out clips is {fractions[what]:.2f} of that "
            f"at the start, below config.monitor.collapse={self.collapse:g}; {names}{changes}): lower {remedy}optimizer.base_lr, or freeze more "
            "by video_branch.train"
        )

    def _features(self, params) -> Features:
        held_out = self.held_out
        encoder = params["video"]["encoder"]
        return extract(held_out.objective.config, encoder, held_out.source, self.clips, encode=held_out.encode)
