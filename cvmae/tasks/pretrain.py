"""Pre-training of both branches."""

import jax
import jax.numpy as jnp

from cvmae.config import ConfigError
from cvmae.data.mixture import mixture_names
from cvmae.data.row_checks import count_trained_on
from cvmae.evaluation.drift import DriftMonitor, Start
from cvmae.evaluation.heldout import HeldOut
from cvmae.evaluation.pretraining_report import evaluate_pretraining, report_table, unprobed
from cvmae.models.trained_part import TrainedPart
from cvmae.models.vit import decode_variant
from cvmae.objective.latents import TEACHER
from cvmae.objective.objective import Objective
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel import processes
from cvmae.tasks.base import Task
from cvmae.tasks.cooldown import continue_run
from cvmae.tasks.init_from import load_pretraining_branch
from cvmae.tasks.notes import check_reversible, export_notes, picture_notes, row_notes, valid_notes
from cvmae.tasks.results import Results
from cvmae.tasks.teacher import load_teacher
from cvmae.training import optimizer as optim
from cvmae.training.run_schedule import Schedule
from cvmae.training.train_state import TrainState, accumulate_gradients, apply_gradients, create_state
from cvmae.workdir import Report, Workdir


class Pretrain(Task):
    """Pre-training by the objective of METHOD sections 3 to 5; config.loss sets the branches and terms.

    Attributes:
      held_out: the evaluation split, opened by `check_data` if anything reads it.
    """

    held_out: HeldOut
    _start: Start | None = None  # of the drift, measured at the first evaluation of a process
    BATCH_KEYS: tuple[str, ...] = ("video", "frame_index")
    PREFIX = "report"

    def __init__(self, config, mesh, schedule: Schedule, source):
        super().__init__(config, mesh, schedule, source)
        warmups = {term: self.resolve(text, f"loss_warmup.{term}") for term, text in config.loss_warmup.items()}
        self.mixture = mixture_names(config.data)
        if self.mixture:
            self.BATCH_KEYS = ("video", "frame_index", "source")
        self.depth = decode_variant(config.video_branch.variant)[0].depth
        # Configs of earlier versions lack the field.
        self.part = TrainedPart.parse(config.video_branch.get("train", "all"), self.depth)
        self.objective = Objective(config, warmups, self.rules, len(self.mixture))
        self.learning_rate = optim.resolve_schedule(config, schedule.total, schedule.steps_per_epoch)
        self.optimizer = optim.make_optimizer(config.optimizer, self.learning_rate, self.is_frozen)

    def is_frozen(self, path: str) -> bool:
        """Returns True for the image encoder where config.image_branch.train freezes it, and for what video_branch.train leaves out."""
        if path.startswith("/video/encoder/"):
            return not self.part.is_trained(path.removeprefix("/video"), self.depth)
        return self.config.image_branch.train == "frozen" and path.startswith("/image/encoder/")

    def _stop_frozen(self, params):
        """Returns parameters of which the frozen ones have no gradient, so that none is computed below the first that learns."""
        if self.part.kind == "all":
            return params  # no gradient reaches a frozen image encoder: the model stops it

        def stop(keys, leaf):
            return jax.lax.stop_gradient(leaf) if self.is_frozen(optim.path_of(keys)) else leaf

        return jax.tree_util.tree_map_with_path(stop, params)

    def init_state(self, key) -> TrainState:
        """Returns a new state; two clips are enough to know the shapes of parameters."""
        params = self.objective.init(key, self.blank_batch(2) | sample_keys(key, 0, 2))
        teacher = self._teacher_shapes()
        # Zeros, whose place the weights take.
        frozen = None if teacher is None else {TEACHER: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), teacher)}
        return create_state(params, self.optimizer, self.config.optimizer.ema_decay, frozen)

    def _teacher_shapes(self):
        """Returns shapes and dtypes of the teacher's parameters; None without a teacher."""
        teacher, data = self.objective.teacher, self.config.data
        if teacher is None:
            return None
        clip = jnp.zeros((1, data.num_frames, *self.config.augment.size, 3))
        return jax.eval_shape(lambda: teacher.init(jax.random.key(0), clip)["params"])

    def _with_teacher(self, params, state: TrainState) -> dict:
        """Returns parameters of the model beside those of the teacher, for the objective."""
        return params | (state.frozen or {})

    def load_pretrained(self) -> dict | None:
        """Returns the branches that start from weights, `video` and `image`, and the `teacher`; None where nothing does.

        Raises:
          ConfigError: a file does not fit its branch; the message lists why.
        """
        model, template = self.objective.model, self.abstract_state().params
        branches = {name: module for name, module in (("video", model.video), ("image", model.image)) if module is not None}
        loaded = {name: load_pretraining_branch(self.config, name, template[name], module) for name, module in branches.items()}
        if self.objective.teacher is not None:
            loaded[TEACHER] = load_teacher(self.config, self._teacher_shapes(), self.objective.teacher)
        return {name: params for name, params in loaded.items() if params is not None} or None

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, see `base.Task`; with config.cooldown.init_from that of a run which this one continues."""
        state, path = super().initial_state(), self.config.get("cooldown", {}).get("init_from")
        return continue_run(state, path, self.config, self.objective.model) if path else state

    def train_step(self, state: TrainState, batch):
        """Returns the updated state and the metrics of the objective, of each source of a mixture, and of the optimizer."""
        samples = batch | sample_keys(self.key, state.step, batch["video"].shape[0])

        def loss(params, micro_batch):
            return self.objective(self._with_teacher(self._stop_frozen(params), state), micro_batch, state.step)

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
        if video is not None and self.part.kind != "all":
            lines.append(
                f"video_branch.train={self.config.video_branch.train}: the embedding and the first {self.depth - self.part.number} of "
                f"{self.depth} blocks of the video encoder are frozen"
            )
        if self.objective.teacher is not None:
            teacher = self.config.video_branch.teacher
            lines.append(
                f"video_branch.target=latent: predicts features of {teacher.init_from} ({teacher.variant}, norm {teacher.norm}), frozen"
            )
        lines += valid_notes(self.config, self.objective)
        lines += picture_notes(self.config, self.source) if video is not None else []
        return lines

    def first_notes(self) -> list[str]:
        """Returns a note where the video encoder cannot be exported to transformers."""
        video = self.objective.model.video
        return [] if video is None else export_notes(video.encoder)

    def check_data(self) -> None:
        """Checks that reversed clips differ from clips, and opens the evaluation split where something will read it."""
        check_reversible(self.config, self.source)
        report = self.config.report
        if report.pictures or report.labelled or self._monitored or self.resolve(self.config.eval_every, "eval_every"):
            self.evaluated_source = self.open_split("eval_split")
            self.held_out = HeldOut(self.objective, self.evaluated_source, self.placement)

    def row_notes(self) -> list[str]:
        """Returns notes about the splits of training and, where it is read, of evaluation; labels are for the report's probe alone."""
        sources = {"split": self.source}
        if self.evaluated_source is not None:
            sources["eval_split"] = self.evaluated_source
        has_probe = bool(self.config.report.labelled)
        notes = row_notes(self.config, sources, has_probe and not self.config.data.get("multi_label"), refuse=False)
        reasons = {field: unprobed(source) for field, source in sources.items()} if has_probe else {}
        return notes + [
            f"note: the clips of config.data.{field}={self.config.data[field]!r} {reason}, so the report has no linear probe"
            for field, reason in reasons.items()
            if reason
        ]

    def open_lists(self, workdir: Workdir) -> None:
        """Opens the list of unreadable files, which every pass over the held-out clips continues."""
        super().open_lists(workdir)
        if self.evaluated_source is not None:
            self.held_out.bad_files = self.bad_eval_files

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Returns every metric of the objective on the evaluation split, as `eval/NAME`, and the drift where it is monitored.

        Warns where the features of the video encoder collapse.
        """
        params = self.evaluated(state)
        metrics = self.held_out.terms(self._with_teacher(params, state))
        if self._monitored:
            monitor = DriftMonitor(self.held_out, self._monitored, self.config.monitor.collapse)
            if self._start is None:
                self._start = monitor.start(self._starting_params())
            drift = monitor.compare(params, self._start)
            processes.log_once(*filter(None, [monitor.warning(int(state.step), drift, metrics, self._start)]))
            metrics |= drift
        return {f"eval/{name}": value for name, value in metrics.items()}

    @property
    def _monitored(self) -> int:
        """Number of held-out clips on which the drift is measured; 0 for none, as in configs of earlier versions."""
        return self.config.get("monitor", {}).get("clips", 0)

    def _starting_params(self):
        """Returns the parameters that the run started from, the same after any interruption."""
        if self.config.get("cooldown", {}).get("init_from"):
            return self.evaluated(self.initial_state())
        return self.initial_params()

    def results(self, state: TrainState, workdir: Workdir) -> Results:
        """Computes reconstructions, and what was learned beside the untrained model, as config.report asks."""
        del workdir
        c, params = self.config.report, self.evaluated(state)
        reconstruction = None
        if c.pictures and "video_predictions" in self.objective.terms.outputs:
            reconstruction = self._reconstruct(params, c.pictures)
        if not c.labelled:
            return Results(None, reconstruction=reconstruction)
        metrics = evaluate_pretraining(self.held_out, self._with_teacher(params, state), self.source, c.labelled, c.clips)
        if "probe/accuracy" not in metrics:
            processes.log_once(
                "note: no linear probe: the clips that it would be fitted to, or tested on, are of fewer than two classes"
            )
        baseline = self._baseline() if c.untrained else {}
        clips, trained_on = len(self.held_out.source), count_trained_on(self.source, self.held_out.source)
        report = Report("pretrain", metrics, baseline, {"clips": clips, "trained_on": trained_on} if trained_on else {})
        which = f"({trained_on} of {clips} trained on)" if trained_on else "not trained on"
        return Results(report, report_table(metrics, baseline, which), reconstruction=reconstruction)

    def _baseline(self) -> dict[str, float]:
        """Returns the report of the model before the first step; empty where the run that it went on from is gone by now."""
        try:
            start = self.initial_state()
            untrained = self._with_teacher(self.evaluated(start), start)
        except ConfigError as error:
            if not self.config.cooldown.init_from:
                raise
            processes.log_once(f"note: no report of the start: {error}")
            return {}
        c = self.config.report
        return evaluate_pretraining(self.held_out, untrained, self.source, c.labelled, c.clips)

    def _reconstruct(self, params, count: int):
        from cvmae.visualize.reconstruction import reconstruct_samples  # see `results.draw`

        return reconstruct_samples(self.objective, params, next(self.held_out.samples()), count)
