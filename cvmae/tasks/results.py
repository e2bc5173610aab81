"""The results of a finished run: the report and arrays that a task computed, and the files and pictures made of them."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from cvmae.evaluation.classification import confusion_matrix, per_class_rows, write_per_class_csv
from cvmae.evaluation.multi_label import label_rows, write_label_csv
from cvmae.evaluation.multi_view import Predictions
from cvmae.files import replacing
from cvmae.parallel import processes
from cvmae.training.metric_writer import read_metrics
from cvmae.workdir import CONFUSION, CURVES, PER_CLASS, PREDICTIONS, RECONSTRUCTION, Report, Workdir

if TYPE_CHECKING:  # matplotlib takes a second to import
    from cvmae.visualize.reconstruction import Reconstruction


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that a task leaves behind at the end of its run.

    Attributes:
      report: the numbers; None where config asks for none.
      text: the numbers for people, printed on stdout; empty for none.
      predictions: of every test video, for tasks with classes.
      class_names: of `predictions`.
      paths: of the videos of `predictions`, relative to the manifest's folder.
      reconstruction: of a few held-out clips, numpy arrays; for pre-training.
      curves: True where metrics were logged over steps.
    """

    report: Report | None
    text: str = ""
    predictions: Predictions | None = None
    class_names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    reconstruction: "Reconstruction | None" = None
    curves: bool = True


def write(results: Results, workdir: Workdir) -> None:
    """Writes `report.json`, `predictions.npz` and `per_class.csv`, and prints the text; in the main process."""
    if not processes.is_main_process():
        return
    if results.report is not None:
        workdir.write_report(results.report)
    if results.predictions is not None:
        _write_predictions(results.predictions, results.class_names, results.paths, workdir)
    if results.text:
        print(results.text)


def _write_predictions(predictions: Predictions, class_names: tuple[str, ...], paths: tuple[str, ...], workdir: Workdir) -> None:
    labeled = predictions.labeled
    arrays = {name: getattr(predictions, name) for name in ("probabilities", "labels", "readable")}
    if predictions.labels.ndim == 2:  # a clip that has none of the classes is labeled
        arrays |= {"labels": predictions.labels > 0, "labeled": labeled}
    with replacing(workdir / PREDICTIONS) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays, class_names=np.array(class_names), paths=np.array(paths))
    if not (predictions.labels > 0 if predictions.labels.ndim == 2 else labeled).any():
        return
    scores, labels = predictions.probabilities[labeled], predictions.labels[labeled]
    if labels.ndim == 2:
        write_label_csv(workdir / PER_CLASS, label_rows(scores, labels, class_names))
    else:
        write_per_class_csv(workdir / PER_CLASS, per_class_rows(scores, labels, class_names))


def draw(results: Results, workdir: Workdir) -> None:
    """Draws `curves.png`, `reconstruction.png` and `confusion.png`, as far as there is something to draw; in the main process."""
    if not processes.is_main_process():
        return
    # Matplotlib takes a second to import, and a run that is resumed many times draws once.
    from cvmae.visualize.confusion import draw_confusion
    from cvmae.visualize.curves import draw_curves
    from cvmae.visualize.reconstruction import draw_reconstruction

    if results.curves:
        draw_curves(workdir / CURVES, read_metrics(workdir))
    if results.reconstruction is not None:
        draw_reconstruction(workdir / RECONSTRUCTION, results.reconstruction)
    predictions = results.predictions
    # A clip with several labels has no one class that it could be confused with.
    if predictions is not None and predictions.labels.ndim == 1 and predictions.labeled.any():
        labeled = predictions.labeled
        matrix = confusion_matrix(predictions.probabilities[labeled], predictions.labels[labeled])
        draw_confusion(workdir / CONFUSION, matrix, results.class_names)


def write_page(wanted: bool, workdir: Workdir) -> None:
    """Writes `report.html` where it is wanted; in the main process."""
    if wanted and processes.is_main_process():
        from cvmae.report.page import write_page  # see `draw`

        write_page([workdir.path])
