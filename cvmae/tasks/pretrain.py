"""The pre-training task: how its state is made and what a step does."""

import functools
import pathlib

import jax.numpy as jnp

from cvmae.evaluation.heldout import HeldOut, evaluate_pretraining, report_table
from cvmae.files import write_json
from cvmae.objective.objective import Objective
from cvmae.objective.views_and_masks import sample_keys
from cvmae.parallel import processes
from cvmae.tasks.base import Task
from cvmae.tasks.init_from import load_pretraining_branch
from cvmae.training import optimizer as optim
from cvmae.training.metric_writer import read_metrics
from cvmae.training.train_state import TrainState, accumulate_gradients, apply_gradients, create_state
from cvmae.visualize.curves import draw_curves
from cvmae.visualize.reconstruction import save_reconstructions


class Pretrain(Task):
    """Pre-training of both branches."""

    BATCH_KEYS = ("video", "frame_index")

    def __init__(self, config, mesh, total_steps: int, steps_per_epoch: float):
        super().__init__(config, mesh, total_steps, steps_per_epoch)
        warmups = {term: self.resolve(text, f"loss_warmup.{term}") for term, text in config.loss_warmup.items()}
        self.objective = Objective(config, warmups)
        warmup = self.resolve(config.optimizer.warmup, "optimizer.warmup")
        self.schedule = optim.make_schedule(config.optimizer, config.batch_size, warmup, total_steps)
        self.optimizer = optim.make_optimizer(config.optimizer, self.schedule, self._frozen)

    def _frozen(self, path: str) -> bool:
        return self.config.image_branch.train == "frozen" and path.startswith("/image/encoder/")

    def init_state(self, key) -> TrainState:
        # Two clips are enough to know the shapes of parameters.
        params = self.objective.init(key, self.blank_batch(2) | sample_keys(key, 0, 2))
        return create_state(params, self.optimizer, self.config.optimizer.ema_decay)

    def load_pretrained(self):
        """The branches that start from weights, the video's and the image's; None where no branch does.

        Raises:
          ConfigError: a file does not fit its branch; the message lists why.
        """
        model, template = self.objective.model, self.abstract_state().params
        branches = {name: module for name, module in (("video", model.video), ("image", model.image)) if module is not None}
        found = {name: load_pretraining_branch(self.config, name, template[name], module) for name, module in branches.items()}
        return {name: params for name, params in found.items() if params is not None} or None

    def train_step(self, state: TrainState, batch):
        samples = batch | sample_keys(self.key, state.step, batch["video"].shape[0])

        def loss(params, part):
            return self.objective(params, part, state.step)

        gradients, metrics = accumulate_gradients(loss, state.params, samples, self.config.accumulate)
        new, norms = apply_gradients(state, gradients, self.optimizer, self.config.optimizer.ema_decay)
        rate = self.schedule(state.step)
        return new, metrics | norms | {"optimizer/learning_rate": jnp.asarray(rate, jnp.float32)}

    def announce(self) -> list[str]:
        """The learning rate's formula, and what accumulation does to the contrast."""
        batch, parts = self.config.batch_size, self.config.accumulate
        lines = [optim.describe(self.config.optimizer, batch)]
        if parts > 1:
            lines.append(
                f"each batch is computed in {parts} parts: contrastive negatives are the {batch // parts} clips of a part, not the batch"
            )
        return lines

    def open(self) -> None:
        """Opens the evaluation split where something will read it."""
        if self.config.report.pictures or self.config.report.labelled or self.resolve(self.config.eval_every, "eval_every"):
            _ = self.held_out

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """The clips of the evaluation split."""
        source = self.open_split("eval_split")
        return HeldOut(
            self.objective, source, lambda batch: self.put({name: batch[name] for name in self.BATCH_KEYS}), self.share
        )

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Every metric of the objective on the evaluation split, as `eval/NAME`."""
        return {f"eval/{name}": value for name, value in self.held_out.terms(state.evaluated).items()}

    def finish(self, state: TrainState, workdir: str) -> dict[str, float]:
        """Draws the curves and reconstructions, and writes and prints what was learned, as config.report asks."""
        c, folder = self.config.report, pathlib.Path(workdir)
        if processes.is_main_process():
            draw_curves(folder / "curves.png", read_metrics(workdir))
        if c.pictures and "video_predictions" in self.objective.terms.outputs:
            samples = next(self.held_out.samples())
            save_reconstructions(folder / "reconstruction.png", self.objective, state.evaluated, samples, c.pictures)
        if not c.labelled:
            return {}
        source = self.open_split("split")
        found = {"trained": evaluate_pretraining(self.held_out, state.evaluated, source, c.labelled, c.clips)}
        if c.untrained:
            found["untrained"] = evaluate_pretraining(self.held_out, self.init().evaluated, source, c.labelled, c.clips)
        if processes.is_main_process():
            write_json(folder / "report.json", found)
            print(report_table(**found))
        return {f"report/{name}": value for name, value in found["trained"].items()}
