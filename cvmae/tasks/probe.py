"""Probes on a frozen encoder: a grid of heads trained at once on the same features, and the best of them by validation."""

import itertools

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cvmae.config import require
from cvmae.evaluation.features import block_tokens
from cvmae.evaluation.multi_label import MAP
from cvmae.evaluation.multi_view import Predictions, flat_crops, mean_over_crops
from cvmae.models.build import DTYPES, build_encoder, build_probe, video_grid
from cvmae.models.heads import pool
from cvmae.models.probes import FeatureNorm
from cvmae.tasks.classification import MIDDLE, ClassificationTask, highest_class, no_class
from cvmae.tasks.init_from import load_video_encoder
from cvmae.tasks.notes import repeated_clip_notes
from cvmae.training import optimizer as optim
from cvmae.training.run_schedule import Schedule
from cvmae.training.train_state import TrainState


class Probe(ClassificationTask):
    """The linear and the attentive probe.

    `linear` reads the mean over tokens, batch-normalized without affine parameters (MAE); its heads are trained side by side. `attentive`
    reads all tokens, of config.probe.clips clips of a video together; its heads have activations of their own, so they are trained one
    after the other within a step.
    """

    STACKED = 1  # the heads

    def __init__(self, config, mesh, schedule: Schedule, source):
        super().__init__(config, mesh, schedule, source, config.probe.classes)
        self.linear = config.task == "linear"
        self.encoder = build_encoder(config, config.video_branch, video_grid(config), rules=self.rules)
        self.probe = build_probe(config, self.classes, self.rules)
        self.grid = list(itertools.product(config.probe.rates, config.probe.weight_decays))
        self.ema_decay = config.optimizer.get("ema_decay", 0.0)  # configs of before the field
        warmup = self.resolve(config.optimizer.warmup, "optimizer.warmup")
        self.rate_factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(schedule.total, warmup + 1), 0.0)
        self._predict = jax.jit(self._pure_predict)

    def describe(self) -> list[str]:
        """The classes and the grid."""
        c = self.config.probe
        return [
            f"{self.classes} classes; the frozen encoder is {self.config.init_from}",
            f"{len(self.grid)} heads at once: rates {tuple(c.rates)}, weight decays {tuple(c.weight_decays)}",
        ] + ([f"{self.clips} clips of a video are read together"] if self.clips > 1 else [])

    def first_notes(self) -> list[str]:
        """Returns a note where the clips that are read together are equal."""
        return repeated_clip_notes(self.config, self.source, self.clips)

    def check_data(self) -> None:
        """Checks the labels of the splits, and that those of the evaluation split can tell which head is best."""
        super().check_data()
        require(len(self.grid) == 1 or highest_class(self.eval_source) >= 0, no_class(self.config, "eval_split"))

    def _optimizer(self, rate, weight_decay):
        c = self.config.optimizer
        return optax.adamw(rate, c.b1, c.b2, c.eps, weight_decay=weight_decay, mask=optim.decay_mask)

    def _over_heads(self, function, *trees):
        return jax.vmap(function)(*trees) if self.linear else jax.lax.map(lambda leaves: function(*leaves), trees)

    def init_state(self, key) -> TrainState:
        """Returns untrained heads, stacked along a first axis, and an untrained encoder; see `base.Task`."""
        c = self.config
        encoder_key, probe_key = jax.random.split(key)
        clips = jnp.zeros((2, c.data.num_frames, *c.augment.size, 3))
        encoder = self.encoder.init(encoder_key, clips)["params"]
        features = self._features(encoder, jnp.tile(clips, (1, self.clips, 1, 1, 1)))
        stats = FeatureNorm().init(key, features, False)["batch_stats"] if self.linear else None
        keys = jax.random.split(probe_key, len(self.grid))
        params = jax.vmap(lambda key: self.probe.init(key, features)["params"])(keys)
        opt_state = jax.vmap(self._optimizer(0.0, 0.0).init)(params)
        ema = jax.tree.map(jnp.copy, params) if self.ema_decay else None
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, ema, frozen=encoder, stats=stats)

    def initial_state(self) -> TrainState:
        """The state before the first step: new heads, and the encoder of config.init_from (untrained where it says so)."""
        state = super().initial_state()
        params = load_video_encoder(self.config, jax.eval_shape(lambda: state.frozen), self.encoder)
        if params is None:
            return state
        return state.replace(frozen=jax.device_put(params, jax.tree.map(lambda a: a.sharding, state.frozen)))

    def _features(self, encoder, clips):
        """Returns the input of a head: float32 [B, D], or all tokens of a video's N clips [B, N·L, D]; `clips` are [B, N·T, H, W, 3]."""
        layers = self.config.probe.get("layers", (-1,))  # configs of before the field
        if self.linear:
            return pool(block_tokens(self.encoder, encoder, clips, layers))

        def tokens_of(clip):
            return block_tokens(self.encoder, encoder, clip, layers).astype(DTYPES[self.config.dtype])

        if self.clips == 1:
            return tokens_of(clips)
        # The first clip of every video, then the second: activations of the encoder take the memory of one clip.
        frames = self.config.data.num_frames
        tokens = jax.lax.map(
            lambda start: tokens_of(jax.lax.dynamic_slice_in_dim(clips, start, frames, axis=1)),
            frames * jnp.arange(self.clips),
        )
        return einops.rearrange(tokens, "n b l d -> b (n l) d")

    def _as_parameters(self, tree):
        """Keeps the sharding of a head's moments from its parameters and gradients, and with them from the activations."""
        return jax.tree_util.tree_map_with_path(lambda keys, a: self.state_sharding.as_parameter(optim.path_of(keys), a), tree)

    def train_step(self, state: TrainState, batch):
        """Returns the state after a step of every head on the same features, and metrics over heads; see `base.Task`."""
        clips, labels, _ = self.views(self.samples(batch, state.step))
        features, stats = self._features(state.frozen, clips), state.stats
        if self.linear:
            features, new = FeatureNorm().apply({"batch_stats": stats}, features, True, mutable=["batch_stats"])
            stats = new["batch_stats"]
        rates, decays = (jnp.asarray(column, jnp.float32) for column in zip(*self.grid))
        factor = self.rate_factor(state.step)

        def loss(params):
            logits = self.probe.apply({"params": params}, features)
            if self.label_sets is None:
                hits = (logits.argmax(-1) == labels).mean()
                return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), hits
            targets = self.targets(labels)
            hits = jnp.take_along_axis(targets, logits.argmax(-1)[:, None], axis=-1).mean()  # any label of the clip
            return self.class_loss(logits, targets), hits

        def advance(params, opt_state, rate, decay):
            params = self._as_parameters(params)
            (value, hits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            gradients = self._as_parameters(gradients)
            updates, opt_state = self._optimizer(rate * factor, decay).update(gradients, opt_state, params)
            return self._as_parameters(optax.apply_updates(params, updates)), opt_state, value, hits

        params, opt_state, losses, hits = self._over_heads(advance, state.params, state.opt_state, rates, decays)
        metrics = {"loss": losses.min(), "loss/median_head": jnp.median(losses), "accuracy/top1": hits.max()}
        metrics["optimizer/rate_factor"] = jnp.asarray(factor, jnp.float32)
        ema = optax.incremental_update(params, state.ema, 1 - self.ema_decay) if self.ema_decay else None
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema, stats=stats), metrics

    def _pure_predict(self, state: TrainState, video):
        features = self._features(state.frozen, flat_crops(video, self.config))
        if self.linear:
            features = FeatureNorm().apply({"batch_stats": state.stats}, features, False)
        logits = self._over_heads(lambda params: self.probe.apply({"params": params}, features), state.params)
        return mean_over_crops(jnp.moveaxis(self.probabilities(logits), 0, 1), video.shape[1])

    def predict(self, state: TrainState):
        """Probabilities [b, heads, C] of a batch of crops."""
        inputs = state.replace(params=self.evaluated(state), opt_state=None, ema=None)
        return lambda batch: self._predict(inputs, batch["video"])

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Scores of the best head on the evaluation split, and which one that is."""
        report, _ = self.select_head(state)
        fields = ("rate", "weight_decay")
        scores = {name: value for name, value in report["best"].items() if name not in fields}
        named = {f"probe/{name}": report["best"][name] for name in fields}
        return {f"eval/{name}": value for name, value in (scores | named).items()}

    def select_head(self, state: TrainState):
        """Every head with its scores on the evaluation split, and the one with the best top-1 or mAP; of equals the first."""
        predictions = self.test(state, self.eval_source, MIDDLE)
        heads = [
            {"rate": rate, "weight_decay": decay} | self.scores(one_head(predictions, head))
            for head, (rate, decay) in enumerate(self.grid)
        ]
        score = "accuracy/top1" if self.label_sets is None else MAP
        best = int(np.argmax([head.get(score, 0.0) for head in heads]))
        return {"best": heads[best], "heads": heads}, lambda predictions: one_head(predictions, best)


def one_head(predictions: Predictions, head: int) -> Predictions:
    """The predictions of one head out of those of all, [n, heads, C]."""
    return Predictions(predictions.probabilities[:, head], predictions.labels, predictions.readable)
