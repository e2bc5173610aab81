"""What tasks that learn from labels share: classes, augmented views, evaluation, and the multi-view test at the end."""

import functools
import pathlib

import numpy as np

from cvmae import augment, rng
from cvmae.augment.mirror_labels import mirror_table
from cvmae.config import ConfigError, require
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.evaluation.classification import confusion_matrix, per_class_rows, summarize, write_per_class_csv
from cvmae.evaluation.multi_view import Predictions, predict_views
from cvmae.files import replacing, write_json
from cvmae.parallel import processes
from cvmae.parallel.mesh import shard_map_rows
from cvmae.tasks.base import Task
from cvmae.training.metric_writer import read_metrics
from cvmae.visualize.confusion import draw_confusion
from cvmae.visualize.curves import draw_curves

MIDDLE = TestViews(1, 1)  # the middle clip, center crop: evaluation during training


class ClassificationTask(Task):
    """Learns the classes of config.data.split.

    A task of this kind defines `predict(state)`, a function for `evaluation.views.predict_views`, besides what `Task` asks for.

    Raises:
      ConfigError: the split has clips without a label, or more classes than the config says.
    """

    BATCH_KEYS = ("video", "label")

    def __init__(self, config, mesh, total_steps: int, steps_per_epoch: float, classes: int):
        super().__init__(config, mesh, total_steps, steps_per_epoch)
        source = self.open_split("split")
        self.classes, self.class_names = count_classes(source, classes, config.data.split)
        self.view_spec = self._view_spec()

    def open(self) -> None:
        """Opens the splits that evaluation and the test at the end will read, and checks that their labels are classes."""
        for field, source in (("eval_split", self.eval_source), ("test_split", self.open_split("test_split"))):
            most = int(np.max(source.labels, initial=-1))
            require(most < self.classes, f"config.data.{field}: label {most} is none of the {self.classes} classes of data.split")

    @functools.cached_property
    def eval_source(self):
        """The evaluation split."""
        return self.open_split("eval_split")

    def _view_spec(self) -> augment.LabeledSpec:
        c = self.config.augment
        crop = augment.Crop(c.size, c.scale, c.ratio, c.flip)
        extra = {}
        if c.get("rand_augment") and c.rand_augment.layers:
            extra["rand_augment"] = augment.RandAugment(**c.rand_augment)
        if c.get("erasing") and c.erasing.probability:
            extra["erasing"] = augment.Erasing(**c.erasing)
        if c.mirror_labels:
            extra["mirror"] = mirror_table(self.class_names)
        return augment.LabeledSpec(crop, mean=c.mean, std=c.std, **extra)

    def samples(self, batch, step):
        """The batch with one key a sample."""
        key = rng.stream(self.key, "augment", step)
        return batch | {"key": rng.per_sample(key, batch["label"].shape[0])}

    def views(self, samples):
        """Augmented clips float32 [B·R, T, H, W, 3], labels int32 [B·R] and keys [B·R], R views of each sample."""
        repeats = self.config.augment.get("repeats", 1)
        make = functools.partial(augment.labeled_views, spec=self.view_spec, repeats=repeats)
        # Every device works on its own rows, one after the other, so that of RandAugment only the op that was drawn is run.
        return shard_map_rows(make, self.mesh)(samples["key"], samples["video"], samples["label"])

    def evaluate(self, state) -> dict[str, float]:
        """Accuracies of the middle clip's center crop of every clip of the evaluation split."""
        return {f"eval/{name}": value for name, value in self.scores(self.test(state, self.eval_source, MIDDLE)).items()}

    def test(self, state, source, plan: TestViews, failed=lambda failures: None) -> Predictions:
        """Probabilities of every video of a source."""
        return predict_views(self.predict(state), self.config, source, plan, self.put, failed, self.share)

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """`accuracy/top1` and so on, shares in 0..1; empty where nothing has a label."""
        if not (predictions.labels >= 0).any():
            return {}
        found = summarize(predictions.probabilities, predictions.labels, self.class_names)
        return {f"accuracy/{name}": value for name, value in found.items() if name != "clips"}

    def finish(self, state, workdir: str) -> dict[str, float]:
        """Draws the curves, runs the multi-view test on config.data.test_split, writes and prints what it found."""
        folder, c = pathlib.Path(workdir), self.config
        source = self.open_split("test_split")
        bad = BadFiles(folder, len(source), c.data.max_bad_fraction, "bad_test_files.csv", processes.is_main_process())
        chosen, pick = self.choose(state)
        predictions = pick(self.test(state, source, TestViews(c.test.clips, c.test.crops), bad.update))
        report = chosen | {
            "test": self.scores(predictions),
            "clips": int(predictions.readable.sum()),
            "unreadable": int((~predictions.readable).sum()),
            "views": f"{c.test.clips} x {c.test.crops}",
        }
        if processes.is_main_process():
            draw_curves(folder / "curves.png", read_metrics(workdir))
            write_json(folder / "report.json", report)
            self._write_predictions(folder, predictions)
            print(text_of(report, c.data.test_split))
        return {f"test/{name}": value for name, value in report["test"].items()}

    def choose(self, state):
        """(what else belongs into report.json, which of several predictors to test: a function of their predictions)."""
        del state
        return {}, lambda predictions: predictions

    def _write_predictions(self, folder: pathlib.Path, predictions: Predictions) -> None:
        arrays = {name: getattr(predictions, name) for name in ("probabilities", "labels", "readable")}
        with replacing(folder / "predictions.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, class_names=np.array(self.class_names))
        known = predictions.labels >= 0
        if known.any():
            values, labels = predictions.probabilities[known], predictions.labels[known]
            write_per_class_csv(folder / "per_class.csv", per_class_rows(values, labels, self.class_names))
            draw_confusion(folder / "confusion.png", confusion_matrix(values, labels), self.class_names)


def count_classes(source, classes: int, split: str) -> tuple[int, tuple[str, ...]]:
    """(number of classes, their names) of a labeled source; `classes` above 0 says the number.

    Raises:
      ConfigError: clips without a label, or a label that is no class.
    """
    labels = np.asarray(source.labels)
    if (labels < 0).any():
        raise ConfigError(
            f"config.data.split={split!r} has {(labels < 0).sum()} clips without a label: give every clip one, or another split"
        )
    count = classes or len(source.class_names) or int(labels.max()) + 1
    if labels.max() >= count:
        raise ConfigError(f"the labels of config.data.split={split!r} go up to {labels.max()}, but there are {count} classes")
    names = source.class_names or tuple(str(number) for number in range(count))
    return count, names + tuple(str(number) for number in range(len(names), count))


def text_of(report: dict, split: str) -> str:
    """The report as a line to print."""
    if not report["test"]:
        return f"{report['clips']} videos of {split}, without labels: see predictions.npz"
    shares = ", ".join(f"{name.removeprefix('accuracy/')} {100 * value:.2f} %" for name, value in report["test"].items())
    named = ", ".join(f"{name} {report['best'][name]:g}" for name in ("rate", "weight_decay")) if "best" in report else ""
    return f"{report['clips']} videos of {split}, {report['views']} views each: {shares}" + (f" ({named})" if named else "")
