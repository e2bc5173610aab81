"""Evaluation of pre-training on held-out clips: the objective, reconstruction against simple baselines, retrieval, linear probe."""

import functools

import jax
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadDataError, BadFiles
from cvmae.data.labels import label_sets_of
from cvmae.data.pipeline import make_eval_loader
from cvmae.evaluation.diagnostics import (
    VIEW_FEATURES,
    accuracies_in_gray,
    effective_rank,
    linear_cka,
    reconstruction_errors,
    view_features,
)
from cvmae.evaluation.features import Features, extract, make_encode
from cvmae.evaluation.knn import knn_report
from cvmae.evaluation.retrieval import nearest_label_agreement, partner_ranks, recall
from cvmae.objective import registered_terms
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import evaluation_bar

NEIGHBORS = 20  # of the vote, DINO's
ONLY_IN_FILES = ("knn/accuracy", "effective_rank/image")  # rows of report.json and the HTML page, not of the printed table
CLIPS = ("video", "frame_index")  # the columns of a batch that the objective takes
HELD_OUT_SEED = 20250211  # of views and masks; independent of the training seed, and the same for every evaluation


def full_batches(loader, size: int, multiple: int = 0):
    """Yields batches of exactly `size` readable clips of a loader; an incomplete last batch is dropped.

    Where not one batch is complete, the clips that there are make one, as many as are a multiple of `multiple`; 0 for none.
    """
    waiting: dict[str, list] = {}
    is_first = True
    for batch in loader:
        keep = batch["valid"]
        for name in CLIPS:
            waiting.setdefault(name, []).extend(batch[name][keep])
        while len(waiting["video"]) >= size:
            yield {name: np.stack(rows[:size]) for name, rows in waiting.items()}
            waiting = {name: rows[size:] for name, rows in waiting.items()}
            is_first = False
    count = len(waiting.get("video", ())) // multiple * multiple if is_first and multiple else 0
    if count:
        yield {name: np.stack(rows[:count]) for name, rows in waiting.items()}


class HeldOut:
    """Evaluator of an objective on the clips of a source, always with the same views and masks.

    Attributes:
      size: clips of a batch. Where fewer can be read, there is one batch of as many as the devices share equally.
      bad_files: collects unreadable videos; None for no list.
    """

    bad_files: BadFiles | None = None

    def __init__(self, objective, source, placement: Placement = HOST):
        """Takes the clips of `source`, placed on the devices by `placement`.

        Raises:
          ConfigError: the source has fewer clips than there are devices.
        """
        self.objective, self.source, self.placement = objective, source, placement
        devices = jax.device_count()
        self.size = min(objective.config.batch_size, len(source)) // devices * devices
        if not self.size:
            raise ConfigError(f"the held-out split has {len(source)} clips, fewer than the {devices} devices: give more")
        programs = {
            "terms": terms_and_features,
            "gray": accuracies_in_gray,
            "views": view_features,
            "errors": reconstruction_errors,
        }
        self._noted = 0  # clips of an evaluation that was noted for having fewer than there are
        self._programs = {name: jax.jit(functools.partial(program, objective)) for name, program in programs.items()}

    @functools.cached_property
    def encode(self):
        """The compiled function from clips to pooled features that `extract` takes, one for every source."""
        return make_encode(self.objective.config)

    def terms(self, params) -> dict[str, float]:
        """Returns every metric of the objective, averaged over batches of one size; contrastive negatives are those of the batch.

        Beside them, `feature_rank/BRANCH`: the effective rank of the pooled features whose `feature_std` is among the metrics, of
        all clips together, so that it is at most their number.
        """
        metrics, features = self._measure(params, "terms")
        return metrics | {f"feature_rank/{branch}": effective_rank(values) for branch, values in features.items()}

    def report(self, params) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Computes accuracies in color and in gray, reconstruction errors, and features of unmasked clips, in one pass.

        Returns:
          ({name: average over complete batches}, the features of `view_features` of all clips).
        """
        reconstructs = "video_predictions" in self.objective.terms.outputs
        metrics, features = self._measure(params, "terms", "gray", "views", *["errors"] * reconstructs)
        kept = ("accuracy/", "gray_accuracy/", "reconstruction/")
        metrics = {name: value for name, value in metrics.items() if name.startswith(kept)}
        return metrics, {name: features[name] for name in VIEW_FEATURES if name in features}

    def samples(self):
        """Yields the batches with the keys of their samples, on the devices."""
        key = jax.random.key(HELD_OUT_SEED)
        for number, batch in enumerate(self.batches()):
            yield self.placement.put(batch) | sample_keys(key, number, len(batch["video"]) * self.placement.shard.count)

    def batches(self):
        """Yields this process's rows of batches of readable clips, all of one size; the batches are those of a single process."""
        done = 0
        if self.placement.shard.count > 1:
            for batch in self._shared_batches():
                yield batch
                done += 1
            if done == len(self.source) // self.size:
                return
        # An unreadable clip shifts all rows after it, so from there on every process reads everything.
        with make_eval_loader(self.objective.config, self.source, self.size, done * self.size) as loader:
            for batch in full_batches(map(self._list, loader), self.size, 0 if done else jax.device_count()):
                yield {name: self.placement.shard.of(rows) for name, rows in batch.items()}

    def _list(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Lists the unreadable videos of a batch of all processes, and returns the batch. Raises: BadDataError, they are too many."""
        if self.bad_files is not None:
            self.bad_files.update(batch["failures"])
        return batch

    def _shared_batches(self):
        """Yields this process's rows of the complete batches before the first unreadable clip."""
        part = {"process_index": self.placement.shard.index, "process_count": self.placement.shard.count}
        with make_eval_loader(self.objective.config, self.source, self.size, **part) as loader:
            for batch in loader:
                # All processes know the same of a batch, so that they agree on the shapes of those to come, and on an error.
                of_all = self.placement.gather_rows({name: batch[name] for name in ("valid", "failures")})
                if not self._list(of_all)["valid"].all():
                    return
                yield {name: batch[name] for name in CLIPS}

    def _measure(self, params, *names: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Runs some of the programs on every batch: ({name: mean of scalars}, {name: rows of all clips}). Raises: BadDataError."""
        programs = [self._programs[name] for name in names]
        batches, clips = [], 0
        with evaluation_bar(len(self.source) // self.size * self.size, "evaluation") as bar:
            for samples in self.samples():
                outputs = [processes.to_host(program(params, samples)) for program in programs]
                batches.append({name: value for output in outputs for name, value in output.items()})
                clips += len(samples["video"])
                bar.update(len(samples["video"]))
        self._note(len(batches), clips)
        columns = {name: np.stack([batch[name] for batch in batches]) for name in sorted(batches[0])}
        means = {name: float(np.mean(column)) for name, column in columns.items() if column.ndim == 1}
        return means, {name: np.concatenate(column) for name, column in columns.items() if column.ndim > 1}

    def _note(self, batches: int, clips: int) -> None:
        """Notes an evaluation of fewer clips than there are, once. Raises: BadDataError, no clip is left."""
        if not batches:
            listed = "" if self.bad_files is None else f"; {self.bad_files.path} says why"
            raise BadDataError(
                f"of the {len(self.source)} held-out clips fewer than the {jax.device_count()} devices can be read{listed}: "
                "repair them, or give another config.data.eval_split"
            )
        if clips < len(self.source) // self.size * self.size and clips != self._noted:
            self._noted = clips
            processes.log_once(
                f"note: evaluation averages over {clips} of {len(self.source)} held-out clips, in batches of {clips // batches}, as the "
                "others cannot be read or fill no batch"
            )


def terms_and_features(objective, params, samples) -> dict:
    """Computes every metric of the objective, and the pooled features of each branch as `video` and `image`, [rows, D]."""
    inputs = objective.step_inputs(samples, params)
    output = objective.forward(params, inputs)
    features = {branch: getattr(output, f"{branch}_features") for branch in ("video", "image")}
    _, metrics = objective.loss_and_metrics(output, inputs)
    return metrics | {branch: values for branch, values in features.items() if values is not None}


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
      `knn/accuracy`; accuracies and recalls are fractions in 0..1. Without labels, or with several labels a clip, the last two and
      the nearest label are absent.
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
    if label_sets_of(held_out.source) is None and len(np.unique(test.labels[test.labels >= 0])) > 1:
        metrics["retrieval/same_label_1nn"] = nearest_label_agreement(test.values, test.labels)
        train = extract(config, encoder, train_source, labeled, encode=held_out.encode)
        metrics |= {"probe/accuracy": linear_probe(train, test), "knn/accuracy": vote_of_neighbors(train, test)}
    return metrics


def report_table(trained: dict[str, float], untrained: dict[str, float] | None = None) -> str:
    """Formats the numbers of `evaluate_pretraining` as a table: untrained and trained side by side."""
    columns = {"untrained": untrained or {}, "trained": trained}
    grays = [name for name, *_ in report_rows() if name.startswith("gray_accuracy/") and name in trained]
    gray, hidden = "".join(grays[:1]), {*grays[1:], *ONLY_IN_FILES}  # of the terms, the first in gray is enough
    lines = [f"{'on clips not trained on':<38}" + "".join(f"{name:>11}" for name, numbers in columns.items() if numbers)]
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
