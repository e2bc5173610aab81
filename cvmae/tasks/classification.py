"""The part that tasks with classes share: augmented views, evaluation, and the multi-view test at the end."""

import abc
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cvmae import augment, rng
from cvmae.augment.mirror_labels import mirror_label_sets, mirror_table
from cvmae.config import ConfigError, require
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.label_texts import NONE_OF_THEM
from cvmae.data.labels import label_sets_of, missing_hint
from cvmae.data.pipeline import clip_spec
from cvmae.data.row_checks import count_trained_on
from cvmae.evaluation.classification import summarize
from cvmae.evaluation.multi_label import MAP, labels_of, mean_average_precision
from cvmae.evaluation.multi_view import Predictions, predict_views
from cvmae.parallel import processes
from cvmae.parallel.mesh import shard_map_rows
from cvmae.tasks.base import Task
from cvmae.tasks.model_fields import is_sigmoid
from cvmae.tasks.notes import row_notes
from cvmae.tasks.results import Results
from cvmae.training.run_schedule import Schedule
from cvmae.training.train_state import TrainState
from cvmae.workdir import BAD_TEST_FILES, Report, Workdir

MIDDLE = TestViews(1, 1)  # the middle clip, or one group of clips; center crop: evaluation during training


class ClassificationTask(Task):
    """A task that learns the classes of config.data.split. Subclasses also define `predict`.

    Attributes:
      classes: the number of classes C.
      class_names: C names.
      label_sets: with the sigmoid loss bool [S, C], see `cvmae.data.sources.Source`; a label of a batch is a row of it. None with
        softmax, where a label is a class.
      view_spec: the augmentation.
      clips: N, clips of a video that are one sample, one after the other along time.

    Raises:
      ConfigError: the split has clips without a label, or more classes than the config says.
    """

    BATCH_KEYS = ("video", "label")
    PREFIX = "test"

    def __init__(self, config, mesh, schedule: Schedule, source, num_classes: int):
        super().__init__(config, mesh, schedule, source)
        self.classes, self.class_names = count_classes(source, num_classes, config.data.split)
        mirror = mirror_table(self.class_names) if config.augment.mirror_labels else None
        self.label_sets: np.ndarray | None = None
        if is_sigmoid(config):
            self.label_sets = _fitted_sets(source, self.classes)
            if mirror is not None:
                self.label_sets, mirror = mirror_label_sets(self.label_sets, mirror)
        self.view_spec = self._view_spec(mirror)
        self.clips = clip_spec(config).clips

    @abc.abstractmethod
    def predict(self, state: TrainState) -> Callable:
        """Returns a function for `evaluation.multi_view.predict_views`: crops of a batch to probabilities."""

    def check_data(self) -> None:
        """Opens the splits of evaluation and of the test at the end, and checks that their labels are classes, of several."""
        require(
            self.classes > 1 or self.label_sets is not None,
            f"config.data.split={self.config.data.split!r}: all clips are of one class, {self.class_names[0]!r}, so there is nothing to tell "
            f"apart: give clips of several classes{missing_hint(self.source)}",
        )
        self.evaluated_source, self.tested_source = self.eval_source, self.test_source
        for field, source in (("eval_split", self.eval_source), ("test_split", self.test_source)):
            most = highest_class(source)
            require(
                most < self.classes, f"config.data.{field}: label {most} is not one of the {self.classes} classes of data.split"
            )
            # A split without any label is predicted; one whose labels are of no class has no mAP.
            labeled = bool((np.asarray(source.labels) >= 0).any())
            require(self.label_sets is None or most >= 0 or not labeled, no_class(self.config, field))

    def row_notes(self) -> list[str]:
        """Returns notes about the splits of training, of evaluation and of the test at the end."""
        sources = {"split": self.source, "eval_split": self.eval_source, "test_split": self.test_source}
        return row_notes(self.config, sources, labeled=True)

    @functools.cached_property
    def eval_source(self):
        """The evaluation split."""
        return self.open_split("eval_split")

    @functools.cached_property
    def test_source(self):
        """The test split; the evaluation split where both have one name."""
        same = self.config.data.test_split == self.config.data.eval_split
        return self.eval_source if same else self.open_split("test_split")

    def _view_spec(self, mirror) -> augment.LabeledSpec:
        c = self.config.augment
        crop = augment.Crop(c.size, c.scale, c.ratio, c.flip)
        rand_augment = c.get("rand_augment")
        erasing = c.get("erasing")
        return augment.LabeledSpec(
            crop,
            c.mean,
            c.std,
            augment.RandAugment(**rand_augment) if rand_augment and rand_augment.layers else None,
            augment.Erasing(**erasing) if erasing and erasing.probability else None,
            mirror,
        )

    def samples(self, batch, step):
        """Returns the batch with one PRNG key a sample."""
        key = rng.stream(self.key, "augment", step)
        return batch | {"key": rng.per_sample(key, batch["label"].shape[0])}

    def views(self, samples):
        """Returns augmented clips float32 [B·R, N·T, H, W, 3], labels int32 [B·R] and keys [B·R], R views of each sample."""
        if self.clips > 1:  # of probes, which have one view
            make = functools.partial(augment.labeled_clips, spec=self.view_spec, clips=self.clips)
        else:
            repeats = self.config.augment.get("repeats", 1)
            make = functools.partial(augment.labeled_views, spec=self.view_spec, repeats=repeats)
        # Every device works on its own rows, one after the other, so that of RandAugment only the op that was drawn is run.
        return shard_map_rows(make, self.mesh)(samples["key"], samples["video"], samples["label"])

    def targets(self, labels, smoothing: float = 0.0):
        """Returns what the loss compares with, float32 [B, C], of labels int32 [B]: one-hot, or multi-hot with the sigmoid loss."""
        if self.label_sets is None:
            return augment.soft_targets(labels, self.classes, smoothing)
        return augment.multi_hot_targets(labels, jnp.asarray(self.label_sets), smoothing)

    def class_loss(self, logits, targets):
        """Returns the mean loss over samples, a float32 scalar: cross-entropy, or with the sigmoid loss binary cross-entropy.

        The latter is also the mean over classes, as in torch's BCEWithLogitsLoss.

        Args:
          logits: float32 [B, C].
          targets: float32 [B, C], see `targets`.
        """
        if self.label_sets is None:
            return optax.losses.softmax_cross_entropy(logits, targets).mean()
        return optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean()

    def probabilities(self, logits):
        """Returns the probabilities of classes, float32 [..., C]: of one among all, or with the sigmoid loss of each by itself."""
        return jax.nn.softmax(logits) if self.label_sets is None else jax.nn.sigmoid(logits)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Returns the scores of one center crop of every video of the evaluation split, as `eval/NAME`.

        It is of the middle clip, or of the N that are read together, evenly spaced.
        """
        predictions = self.test(state, self.eval_source, MIDDLE, self.bad_eval_files)
        return {f"eval/{name}": value for name, value in self.scores(predictions).items()}

    def test(self, state: TrainState, source, views: TestViews, bad_files: BadFiles | None = None) -> Predictions:
        """Returns probabilities of every video of a source."""
        predictions = predict_views(self.predict(state), self.config, source, views, self.placement, bad_files)
        if self.label_sets is None:
            return predictions
        return dataclasses.replace(predictions, labels=labels_of(predictions.labels, self.label_sets))

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Returns `accuracy/top1` and so on, or with the sigmoid loss `mAP`, fractions in 0..1; empty where nothing has a label to score."""
        if not predictions.labeled.any():
            return {}
        if self.label_sets is not None and not (predictions.labels > 0).any():
            return {}  # the clips that have a class cannot be read
        if self.label_sets is not None:
            return {MAP: mean_average_precision(predictions.probabilities, predictions.labels)}
        accuracies = summarize(predictions.probabilities, predictions.labels, self.class_names)
        return {f"accuracy/{name}": value for name, value in accuracies.items() if name != "clips"}

    def results(self, state: TrainState, workdir: Workdir) -> Results:
        """Runs the multi-view test on config.data.test_split."""
        c, source = self.config, self.test_source
        writes = processes.is_main_process()
        bad_files = BadFiles(workdir, len(source), c.data.max_bad_fraction, BAD_TEST_FILES, writes)
        chosen, select = self.select_head(state)
        views = TestViews(c.test.clips // self.clips, c.test.crops)
        predictions = select(self.test(state, source, views, bad_files))
        readable, labeled = int(predictions.readable.sum()), int(predictions.labeled.sum())
        details = chosen | {
            "clips": labeled or readable,  # those that the numbers are of
            "unreadable": int((~predictions.readable).sum()),
            "views": f"{c.test.clips} x {c.test.crops}",
        }
        details |= {"unlabeled": readable - labeled} if 0 < labeled < readable else {}
        trained_on = count_trained_on(self.source, source)
        details |= {"trained_on": trained_on} if trained_on else {}
        details |= {"clips_together": self.clips} if self.clips > 1 else {}
        paths = tuple(source.key(index) for index in range(len(source)))
        report = Report(c.task, self.scores(predictions), details=details)
        return Results(report, text_of(report, c.data.test_split), predictions, self.class_names, paths)

    def select_head(self, state: TrainState) -> tuple[dict, Callable[[Predictions], Predictions]]:
        """Returns details for the report, and a function that takes the predictions of one classifier out of those of several."""
        del state
        return {}, _all_predictions


def _all_predictions(predictions: Predictions) -> Predictions:
    return predictions


def count_classes(source, classes: int, split: str) -> tuple[int, tuple[str, ...]]:
    """(number of classes, their names) of a labeled source; `classes` above 0 says the number.

    Raises:
      ConfigError: clips without a label, or a label that is no class.
    """
    labels, highest = np.asarray(source.labels), highest_class(source)
    if (labels < 0).any():
        first = source.key(int(np.argmax(labels < 0)))
        negatives = f" ({NONE_OF_THEM!r} where it has none of the classes)" if label_sets_of(source) is not None else ""
        raise ConfigError(
            f"config.data.split={split!r} has {(labels < 0).sum()} clips without a label, first {first}: give every clip one{negatives}, "
            f"or another split{missing_hint(source)}"
        )
    count = classes or len(source.class_names) or highest + 1
    if not count:
        raise ConfigError(
            f"config.data.split={split!r} has no class: each clip is labeled as one of none; give clips of the classes"
        )
    if highest >= count:
        raise ConfigError(f"the labels of config.data.split={split!r} go up to {highest}, but there are {count} classes")
    names = source.class_names or tuple(str(number) for number in range(count))
    return count, names + tuple(str(number) for number in range(len(names), count))


def no_class(config, field: str) -> str:
    """Returns the message for a split, config.data.`field`, in which no clip has a class."""
    where = f" of config.data.manifest={config.data.manifest!r}" if config.data.get("manifest") else ""
    return f"config.data.{field}={config.data[field]!r}{where}: no clip has a class to compare with; give clips of the classes, or another split"


def highest_class(source) -> int:
    """Returns the highest class number among the labels of a source, -1 without any."""
    labels, sets = np.asarray(source.labels), label_sets_of(source)
    if sets is None:
        return int(np.max(labels, initial=-1))
    return int(np.max(np.flatnonzero(sets[np.unique(labels[labels >= 0])].any(0)), initial=-1))


def _fitted_sets(source, classes: int) -> np.ndarray:
    """Returns the label sets of a source for `classes` classes, bool [S, C]; of one label a clip, a set for each class."""
    sets = label_sets_of(source)
    if sets is None:
        return np.eye(classes, dtype=bool)
    return np.pad(sets, [(0, 0), (0, max(classes - sets.shape[1], 0))])[:, :classes]


def text_of(report: Report, split: str) -> str:
    """Formats the report of a test as a line to print."""
    clips, best = report.details["clips"], report.details.get("best")
    if not report.metrics:
        return f"{clips} videos of {split}, without labels: see predictions.npz"
    percent = ", ".join(f"{name.removeprefix('accuracy/')} {100 * value:.2f} %" for name, value in report.metrics.items())
    head = " (" + ", ".join(f"{name} {best[name]:g}" for name in ("rate", "weight_decay")) + ")" if best else ""
    together = report.details.get("clips_together")
    views = f"{report.details['views']} views each{f', {together} clips read together' if together else ''}"
    unlabeled = report.details.get("unlabeled")
    others = f" ({unlabeled} more have no label)" if unlabeled else ""
    others += f", {report.details['trained_on']} of them trained on" if "trained_on" in report.details else ""
    return f"{clips} videos of {split}{others}, {views}: {percent}{head}"
