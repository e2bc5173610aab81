"""Evaluation of pre-training on held-out clips: the objective, reconstruction against simple baselines, retrieval, linear probe."""

import jax
import jax.numpy as jnp
import numpy as np

from cvmae import augment
from cvmae.config import ConfigError
from cvmae.data.labels import label_sets_of
from cvmae.data.pipeline import make_eval_loader
from cvmae.evaluation.features import Features, encode_pixels, extract
from cvmae.evaluation.retrieval import nearest_label_agreement, partner_ranks, recall
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import build_encoder, decoder_spec, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.models.patches import Grid
from cvmae.objective import losses, registered_terms
from cvmae.objective.views_and_masks import sample_keys, view_spec
from cvmae.parallel import processes
from cvmae.parallel.mesh import HOST, Placement

CLIPS = ("video", "frame_index")  # the columns of a batch that the objective takes
HELD_OUT_SEED = 20250211  # of views and masks; independent of the training seed, and the same for every evaluation


def full_batches(loader, size: int):
    """Yields batches of exactly `size` readable clips of a loader; an incomplete last batch is dropped."""
    waiting: dict[str, list] = {}
    for batch in loader:
        keep = batch["valid"]
        for name in CLIPS:
            waiting.setdefault(name, []).extend(batch[name][keep])
        while len(waiting["video"]) >= size:
            yield {name: np.stack(rows[:size]) for name, rows in waiting.items()}
            waiting = {name: rows[size:] for name, rows in waiting.items()}


def reconstruction_errors(objective, params, inputs) -> dict:
    """Computes the errors on the masked patches of the view v, in the space of the targets, float32 scalars.

    Returns:
      `model`, of the predictions; `mean_patch`, of the mean of the clip's visible patches; `nearest_patch`, of the visible patch
      nearest in (time, row, column).
    """
    config, views = objective.config, objective.terms.views
    branch, grid = config.video_branch, video_grid(config)
    mask = first_of_mask(inputs.video_mask, views, 1)
    pixels = objective.target_pixels(first_views(inputs.video, views, 1), branch)
    targets = make_targets(pixels, None, decoder_spec(config, branch), grid, branch.target_norm).values
    masked, visible = masking.take_masked(targets, mask), masking.take_visible(targets, mask)
    output = objective.forward(params, inputs)
    predictions = first_views(output.video_predictions, min(views, 2), 1)
    nearest = jnp.take_along_axis(visible, nearest_visible(mask, grid)[..., None], axis=1)
    guesses = {"model": predictions, "mean_patch": visible.mean(1, keepdims=True), "nearest_patch": nearest}
    return {name: losses.masked_mse(guess, masked).mean() for name, guess in guesses.items()}


def nearest_visible(mask: masking.Mask, grid: Grid):
    """Returns, for each masked patch, the index of the nearest visible one among these, int32 [B, N - K]; ties take the first."""
    axes = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    positions = jnp.asarray(np.stack([axis.reshape(-1) for axis in axes], axis=1), jnp.float32)
    offsets = positions[mask.masked][:, :, None] - positions[mask.ids_keep][:, None]
    return jnp.square(offsets).sum(-1).argmin(-1)


class HeldOut:
    """Evaluator of an objective on the clips of a source, always with the same views and masks."""

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
        self._terms = jax.jit(lambda params, samples: objective(params, samples)[1])
        self._errors = jax.jit(lambda params, samples: reconstruction_errors(objective, params, objective.make_inputs(samples)))

    def terms(self, params) -> dict[str, float]:
        """Returns every metric of the objective, averaged over complete batches; contrastive negatives are those of the batch."""
        return self._average(self._terms, params)

    def reconstruction(self, params) -> dict[str, float]:
        """Returns the errors of `reconstruction_errors`, averaged over complete batches."""
        return self._average(self._errors, params)

    def samples(self):
        """Yields complete batches with the keys of their samples, on the devices."""
        key = jax.random.key(HELD_OUT_SEED)
        for number, batch in enumerate(self.batches()):
            yield self.placement.put(batch) | sample_keys(key, number, self.size)

    def batches(self):
        """Yields this process's rows of complete batches of readable clips; the batches are those of a single process."""
        done = 0
        if self.placement.shard.count > 1:
            for batch in self._shared_batches():
                yield batch
                done += 1
            if done == len(self.source) // self.size:
                return
        # An unreadable clip shifts all rows after it, so from there on every process reads everything.
        with make_eval_loader(self.objective.config, self.source, self.size, done * self.size) as loader:
            for batch in full_batches(loader, self.size):
                yield {name: self.placement.shard.of(rows) for name, rows in batch.items()}

    def _shared_batches(self):
        """Yields this process's rows of the complete batches before the first unreadable clip."""
        part = {"process_index": self.placement.shard.index, "process_count": self.placement.shard.count}
        with make_eval_loader(self.objective.config, self.source, self.size, **part) as loader:
            for batch in loader:
                if not all(processes.allgather_json(bool(batch["valid"].all()))):
                    return
                yield {name: batch[name] for name in CLIPS}

    def _average(self, function, params) -> dict[str, float]:
        rows = [processes.to_host(function(params, samples)) for samples in self.samples()]
        if not rows:
            raise ConfigError("no complete batch of held-out clips could be read: see the files of config.data.eval_split")
        return {name: float(np.mean([row[name] for row in rows])) for name in sorted(rows[0])}


def view_features(held_out: HeldOut, params):
    """Computes features of two unmasked views, v and v⁺, of every held-out clip: two float32 [n, D]."""
    config = held_out.objective.config
    encoder = build_encoder(config, config.video_branch, video_grid(config), rules=held_out.objective.rules)
    spec = view_spec(config, 2)

    @jax.jit
    def encode(params, samples):
        views, _ = jax.vmap(lambda k, v, i: augment.make_views(k, v, i, spec, False))(
            samples["views"], samples["video"], samples["frame_index"]
        )
        return [encode_pixels(config, encoder, params, views[:, view]) for view in range(2)]

    rows = [processes.to_host(encode(params, samples)) for samples in held_out.samples()]
    return [np.concatenate(column) for column in zip(*rows)]


def evaluate_pretraining(held_out: HeldOut, params, train_source, labeled: int, clips: int) -> dict[str, float]:
    """Computes every number of the report of pre-training for one set of parameters.

    Args:
      held_out: the held-out clips.
      params: parameters of the full model.
      train_source: labeled training clips for the linear probe.
      labeled: the number of them to fit the probe on.
      clips: the number of held-out clips to score the probe on; 0 takes all.

    Returns:
      {name: value}: `reconstruction/*` errors, `accuracy/*` of the contrastive terms, `retrieval/*`, and `probe/accuracy`;
      fractions in 0..1. Without labels, or with several labels a clip, the last and the nearest label are absent.
    """
    objective = held_out.objective
    metrics: dict[str, float] = {}
    if "video_predictions" in objective.terms.outputs:
        metrics |= {f"reconstruction/{name}": value for name, value in held_out.reconstruction(params).items()}
    metrics |= {name: value for name, value in held_out.terms(params).items() if name.startswith("accuracy/")}
    encoder = params["video"]["encoder"]
    one, two = view_features(held_out, encoder)
    ranks = partner_ranks(one, two)
    metrics |= {"retrieval/same_clip_r1": recall(ranks, 1), "retrieval/same_clip_r5": recall(ranks, 5)}
    metrics["retrieval/median_rank"] = float(np.median(ranks))
    test = extract(objective.config, encoder, held_out.source, clips)
    # A linear probe and a nearest clip of one class each are no measure of clips with several labels: these count as unlabeled.
    if label_sets_of(held_out.source) is None and len(np.unique(test.labels[test.labels >= 0])) > 1:
        metrics["retrieval/same_label_1nn"] = nearest_label_agreement(test.values, test.labels)
        metrics["probe/accuracy"] = linear_probe(extract(objective.config, encoder, train_source, labeled), test)
    return metrics


def report_table(trained: dict[str, float], untrained: dict[str, float] | None = None) -> str:
    """Formats the numbers of `evaluate_pretraining` as a table: untrained and trained side by side."""
    columns = {"untrained": untrained or {}, "trained": trained}
    lines = [f"{'on clips not trained on':<38}" + "".join(f"{name:>11}" for name, numbers in columns.items() if numbers)]
    for name, title, is_fraction in report_rows():
        if name in trained:
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


def _labeled(features: Features):
    return features.labels >= 0


def report_rows() -> list[tuple[str, str, bool]]:
    """Returns (name, title, True for a fraction in 0..1) of the numbers that a report shows, in order.

    A registered loss term with a title has a row for its accuracy, so this is not a constant.
    """
    accuracies = [(f"accuracy/{term.name}", term.title, True) for term in registered_terms() if term.title]
    return [
        ("reconstruction/model", "held-out reconstruction error", False),
        *accuracies,
        ("retrieval/same_clip_r1", "retrieval of the same clip, R@1", True),
        ("retrieval/same_clip_r5", "retrieval of the same clip, R@5", True),
        ("retrieval/same_label_1nn", "nearest clip has the same label", True),
        ("probe/accuracy", "linear probe", True),
    ]
