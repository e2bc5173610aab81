"""Fine-tuning: an encoder, or a part of it, and a head learn from labels, with the augmentations that VideoMAE fine-tunes with."""

import jax
import jax.numpy as jnp

from cvmae import augment
from cvmae.evaluation.multi_view import flat_crops, mean_over_crops
from cvmae.models.build import build_classifier, num_blocks, trained_part
from cvmae.models.trained_part import join, merge_lora
from cvmae.tasks.classification import ClassificationTask
from cvmae.tasks.init_from import load_video_classifier, load_video_encoder
from cvmae.training import optimizer as optim
from cvmae.training.run_schedule import Schedule
from cvmae.training.train_state import TrainState, accumulate_gradients, apply_gradients, create_state


class Finetune(ClassificationTask):
    """Fine-tuning from config.init_from, or training from scratch where that is `untrained`.

    The state's `params` are those that learn, with the updates of LoRA; the others are in `frozen`, without gradients, moments and
    average. Losses and predictions are of both together, `classifier_params`.

    Attributes:
      part: the part that config.finetune.train names.
    """

    def __init__(self, config, mesh, schedule: Schedule, source):
        super().__init__(config, mesh, schedule, source, config.head.classes)
        self.model = build_classifier(config, self.classes, self.rules)
        self.learning_rate = optim.resolve_schedule(config, schedule.total, schedule.steps_per_epoch)
        self.part = trained_part(config)
        depth, temporal = num_blocks(config.video_branch)
        self.optimizer = optim.make_optimizer(config.optimizer, self.learning_rate, depth=depth, temporal=temporal)
        self.mix = augment.Mix(**config.augment.mix)
        self._predict = jax.jit(self._pure_predict)
        self._merge = jax.jit(self.classifier_params)

    def describe(self) -> list[str]:
        """Returns the learning rate's formula, the classes, and the number of views that a batch becomes."""
        c, repeats = self.config, self.config.augment.repeats
        lines = [
            optim.describe(c.optimizer, c.batch_size),
            f"{self.classes} classes; the {'classifier' if c.head.init == 'weights' else 'encoder'} is {c.init_from}",
        ]
        if self.part.kind != "all":
            state = self.abstract_state()
            trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.frozen))
            lines.append(
                f"finetune.train={c.finetune.train}: {trained / 1e6:.3g} M parameters learn, {frozen / 1e6:.3g} M are frozen"
            )
        if repeats > 1:
            lines.append(
                f"{repeats} views of each clip: a step sees {c.batch_size * repeats}; the learning rate counts clips, as VideoMAE's"
            )
        return lines

    def _init_params(self, key) -> dict:
        """Returns initial parameters of the classifier, those that learn and those that do not."""
        clips = jnp.zeros((2, self.config.data.num_frames, *self.config.augment.size, 3))
        return self.model.init(key, clips)["params"]

    def init_state(self, key) -> TrainState:
        params, frozen = self.part.divide(jax.random.fold_in(key, 1), self._init_params(key), self.model.encoder.depth)
        return create_state(params, self.optimizer, self.config.optimizer.ema_decay, frozen)

    def classifier_params(self, params, frozen) -> dict:
        """Returns the parameters of the classifier, updates of LoRA merged, from those of a state that learn and that are frozen."""
        joined = join(params, frozen)
        return merge_lora(joined, self.config.finetune.lora_alpha) if self.part.kind == "lora" else joined

    def load_pretrained(self):
        """The encoder out of config.init_from, with its head if config.head.init says so. Raises: ConfigError, what does not fit."""
        template = jax.eval_shape(self._init_params, self.key)
        if self.config.head.init == "weights":
            return load_video_classifier(self.config, template, self.model, self.class_names)
        params = load_video_encoder(self.config, template["encoder"], self.model.encoder)
        return None if params is None else {"encoder": params}

    def train_step(self, state: TrainState, batch):
        """Returns the state after an update of the parameters that are trained, and the metrics; see `base.Task`."""
        samples = self.samples(batch, state.step)

        def loss(params, micro_batch):
            return self.loss(self.classifier_params(params, state.frozen), micro_batch)

        gradients, metrics = accumulate_gradients(loss, state.params, samples, self.config.accumulate, self.shard_update)
        new, norms = apply_gradients(state, gradients, self.optimizer, self.config.optimizer.ema_decay, self.shard_update)
        learning_rate = jnp.asarray(self.learning_rate(state.step), jnp.float32)
        return new, metrics | norms | {"optimizer/learning_rate": learning_rate}

    def loss(self, params, samples):
        """(loss with soft targets, metrics) of a part of a batch, of `classifier_params`; mixing partners come from the same part."""
        clips, labels, keys = self.views(samples)
        targets = self.targets(labels, self.config.augment.smoothing)
        mix_keys, drop_keys = jax.vmap(lambda key: jax.random.split(key), out_axes=1)(keys)
        clips, targets = augment.mix(mix_keys, clips, targets, self.mix)
        logits = self.model.apply({"params": params}, clips, drop_keys)
        loss = self.class_loss(logits, targets)
        # With mixed clips: how often the class with the largest share is the one predicted; of several labels, any of these.
        best = logits.argmax(-1)
        if self.label_sets is None:
            hits = (best == targets.argmax(-1)).mean()
        else:
            hits = (jnp.take_along_axis(targets, best[:, None], axis=-1) == targets.max(-1, keepdims=True)).mean()
        return loss, {"loss": loss, "accuracy/top1": hits}

    def _pure_predict(self, params, video):
        logits = self.model.apply({"params": params}, flat_crops(video, self.config))
        return mean_over_crops(self.probabilities(logits), video.shape[1])

    def predict(self, state: TrainState):
        """Probabilities [b, C] of a batch of crops."""
        params = self.evaluated(state)
        if self.part.kind != "all":
            params = self._merge(params, state.frozen)
        return lambda batch: self._predict(params, batch["video"])
