"""Pre-training of both branches."""

import jax.numpy as jnp

from cvmae.data.mixture import mixture_names
from cvmae.evaluation.heldout import HeldOut, evaluate_pretraining, report_table
from cvmae.objective.objective import Objective
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel import processes
from cvmae.tasks.base import Task
from cvmae.tasks.init_from import load_pretraining_branch
from cvmae.tasks.notes import check_reversible, export_notes, picture_notes, valid_notes
from cvmae.tasks.results import Results
from cvmae.training import optimizer as optim
from cvmae.training.loop import Schedule
from cvmae.training.train_state import TrainState, accumulate_gradients, apply_gradients, create_state
from cvmae.workdir import Report, Workdir


class Pretrain(Task):
    """Pre-training by the objective of METHOD sections 3 to 5; config.loss sets the branches and terms.

    Attributes:
      held_out: the evaluation split, opened by `check_data` if anything reads it.
    """

    held_out: HeldOut
    BATCH_KEYS: tuple[str, ...] = ("video", "frame_index")
    PREFIX = "report"

    def __init__(self, config, mesh, schedule: Schedule, source):
        super().__init__(config, mesh, schedule, source)
        warmups = {term: self.resolve(text, f"loss_warmup.{term}") for term, text in config.loss_warmup.items()}
        self.mixture = mixture_names(config.data)
        if self.mixture:
            self.BATCH_KEYS = ("video", "frame_index", "source")
        self.objective = Objective(config, warmups, self.rules, len(self.mixture))
        self.learning_rate = optim.resolve_schedule(config, schedule.total, schedule.steps_per_epoch)
        self.optimizer = optim.make_optimizer(config.optimizer, self.learning_rate, self.is_frozen)

    def is_frozen(self, path: str) -> bool:
        """Returns True for the image encoder where config.image_branch.train freezes it."""
        return self.config.image_branch.train == "frozen" and path.startswith("/image/encoder/")

    def init_state(self, key) -> TrainState:
        """Returns a new state; two clips are enough to know the shapes of parameters."""
        params = self.objective.init(key, self.blank_batch(2) | sample_keys(key, 0, 2))
        return create_state(params, self.optimizer, self.config.optimizer.ema_decay)

    def load_pretrained(self) -> dict | None:
        """Returns the branches that start from weights, `video` and `image`; None where no branch does.

        Raises:
          ConfigError: a file does not fit its branch; the message lists why.
        """
        model, template = self.objective.model, self.abstract_state().params
        branches = {name: module for name, module in (("video", model.video), ("image", model.image)) if module is not None}
        loaded = {name: load_pretraining_branch(self.config, name, template[name], module) for name, module in branches.items()}
        return {name: params for name, params in loaded.items() if params is not None} or None

    def train_step(self, state: TrainState, batch):
        """Returns the updated state and the metrics of the objective, of each source of a mixture, and of the optimizer."""
        samples = batch | sample_keys(self.key, state.step, batch["video"].shape[0])

        def loss(params, micro_batch):
            return self.objective(params, micro_batch, state.step)

        gradients, metrics = accumulate_gradients(loss, state.params, samples, self.config.accumulate, self.shard_update)
        if self.objective.source_terms:
            losses = self.objective.source_losses(metrics.pop("source_sums"), state.step)
            metrics |= {f"loss/{name}": loss for name, loss in zip(self.mixture, losses, strict=True)}
        new, norms = apply_gradients(state, gradients, self.optimizer, self.config.optimizer.ema_decay, self.shard_update)
        learning_rate = jnp.asarray(self.learning_rate(state.step), jnp.float32)
        return new, metrics | norms | {"optimizer/learning_rate": learning_rate}

    def describe(self) -> list[str]:
        """Returns the learning rate's formula, what gradient accumulation and masks do to the contrast, and a limit of exports."""
        batch, count = self.config.batch_size, self.config.accumulate
        lines = [optim.describe(self.config.optimizer, batch)]
        if count > 1:
            lines.append(
                f"gradients accumulate over {count} micro-batches: contrastive negatives are the {batch // count} clips of a "
                "micro-batch, not the batch"
            )
        left_out = set(self.objective.loss_terms) - set(self.objective.source_terms)
        if self.mixture and left_out:
            names = ", ".join(sorted(term.name for term in left_out))
            lines.append(f"note: loss/NAME of a source leaves out {names}: its LossTerm has no clip_losses")
        video = self.objective.model.video
        lines += valid_notes(self.config, self.objective)
        lines += picture_notes(self.config, self.source) if video is not None else []
        if self.config.report.labelled and self.config.data.get("multi_label"):
            lines.append(
                "note: config.data.multi_label=True: the report counts clips as unlabeled, without a linear probe and the nearest label"
            )
        return lines + (export_notes(video.encoder) if video is not None else [])

    def check_data(self) -> None:
        """Checks that reversed clips differ from clips, and opens the evaluation split where something will read it."""
        check_reversible(self.config, self.source)
        report = self.config.report
        if report.pictures or report.labelled or self.resolve(self.config.eval_every, "eval_every"):
            self.held_out = HeldOut(self.objective, self.open_split("eval_split"), self.placement)

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Returns every metric of the objective on the evaluation split, as `eval/NAME`."""
        return {f"eval/{name}": value for name, value in self.held_out.terms(self.evaluated(state)).items()}

    def results(self, state: TrainState, workdir: Workdir) -> Results:
        """Computes reconstructions, and what was learned beside the untrained model, as config.report asks."""
        del workdir
        c, params = self.config.report, self.evaluated(state)
        reconstruction = None
        if c.pictures and "video_predictions" in self.objective.terms.outputs:
            reconstruction = self._reconstruct(params, c.pictures)
        if not c.labelled:
            return Results(None, reconstruction=reconstruction)
        metrics = evaluate_pretraining(self.held_out, params, self.source, c.labelled, c.clips)
        if "probe/accuracy" not in metrics:
            processes.log_once(
                "note: no linear probe: the clips of config.data.eval_split have several labels each, or fewer than two classes"
            )
        baseline = {}
        if c.untrained:
            untrained = self.evaluated(self.initial_state())
            baseline = evaluate_pretraining(self.held_out, untrained, self.source, c.labelled, c.clips)
        report = Report("pretrain", metrics, baseline)
        return Results(report, report_table(metrics, baseline), reconstruction=reconstruction)

    def _reconstruct(self, params, count: int):
        from cvmae.visualize.reconstruction import reconstruct_samples  # see `results.draw`

        return reconstruct_samples(self.objective, params, next(self.held_out.samples()), count)
