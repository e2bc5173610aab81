"""Evaluation of pre-training on held-out clips: the objective, reconstruction against simple baselines, and features."""

import functools

import jax
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadDataError, BadFiles
from cvmae.data.pipeline import make_eval_loader
from cvmae.evaluation.diagnostics import (
    VIEW_FEATURES,
    accuracies_in_gray,
    effective_rank,
    reconstruction_errors,
    view_features,
)
from cvmae.evaluation.features import make_encode
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement
from cvmae.parallel.progress import evaluation_bar

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
