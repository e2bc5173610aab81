"""The pre-training objective: loss and metrics of a batch of clips, as a function of the parameters."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from cvmae.array_types import AnyArray
from cvmae.augment import normalize, shared_fraction
from cvmae.models import build
from cvmae.models.autoencoder import Targets
from cvmae.models.crossvideo import CrossVideo, CrossVideoOutput, first_views
from cvmae.models.masking import visible_time_patch_probability
from cvmae.objective.clip_losses import sum_by_source
from cvmae.objective.latents import TEACHER, teacher_features
from cvmae.objective.losses import feature_std, weighted_sum
from cvmae.objective.targets import target_pixels, video_targets
from cvmae.objective.terms import active_terms, weighted_terms
from cvmae.objective.views_and_masks import InputBuilder, ModelInputs
from cvmae.parallel.logical_axes import Rules


def build_model(config, rules: Rules | None = None) -> CrossVideo:
    """CrossVideoMAE with only those parts that the weights of config.loss need.

    Raises:
      ValueError: a config field does not fit; the message names it.
    """
    return build.build_model(config, active_terms(config), rules)


class Objective:
    """Views, masks, model and losses (METHOD sections 2 to 5) as a pure function of parameters and samples.

    `samples` is a batch of the loader with random keys: {"video": uint8 [B, T, H0, W0, 3], "frame_index": int32 [B, F], and the
    keys [B] of `views_and_masks.sample_keys`}.

    Attributes:
      model: the Flax module, with only the parts that the active terms need.
      terms: the names of the active loss terms, and what the model computes for them.
      loss_terms: the active loss terms, in the order in which they are computed.
      num_sources: S, the number of sources of a mixture; 0 without one. Samples of a mixture have "source", int32 [B].
      teacher: the frozen encoder whose features are predicted; None without such a term. Its parameters are the entry `teacher` of the
        `params` of `__call__` and `step_inputs`, and no part of those of `init`.
      source_terms: the loss terms that the loss of each source is made of; () without a mixture.

    Raises:
      ValueError: a config field does not fit; the message names it.
    """

    def __init__(self, config, warmup_steps: dict[str, int] | None = None, rules: Rules | None = None, num_sources: int = 0):
        """Builds the model and the function that makes its inputs.

        Args:
          config: a config of task=pretrain.
          warmup_steps: by term, the steps over which its weight rises linearly from 0; the other terms have no warm-up.
          rules: sharding rules of the mesh that the model runs on; None for one device.
          num_sources: see the attributes.
        """
        self.config, self.warmup_steps = config, dict(warmup_steps or {})
        self.model, self.rules = build_model(config, rules), rules
        self.terms, self.loss_terms = self.model.terms, weighted_terms(config)
        self.teacher = build.build_teacher(config, rules) if "video_latents" in self.terms.outputs else None
        self.make_inputs = InputBuilder(config, self.terms)
        self.num_sources = num_sources
        self.source_terms = tuple(term for term in self.loss_terms if num_sources and term.clip_losses)

    @property
    def expected_valid(self) -> float | None:
        """The expected fraction, 0..1, of valid pairs of the frame-level terms: `valid/TERM`. None if there is no such term.

        A pair is valid if every view has a visible token at the frame's time patch, and views are masked independently. Where v⁺
        begins at another frame (`augment.plus_shift`), it has to hold the frame, which is any of v's.
        """
        if "f_valid" not in self.terms.outputs:
            return None
        mask = self.make_inputs.video_mask
        visible = visible_time_patch_probability(mask.grid, mask.mask_kind, mask.ratio, mask.rounding) ** self.terms.views
        return visible * shared_fraction(mask.grid.num_frames, self.make_inputs.views.plus_shift)

    def init(self, key: Key[Array, ""], samples):
        """Returns initial parameters of the model; only the shapes of `samples` matter."""
        return self.model.init(key, *self._model_arguments(self.make_inputs(samples)))["params"]

    def __call__(self, params, samples, step=None) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Computes the loss and the metrics of a batch.

        Args:
          params: of `model`, and of the teacher where there is one.
          samples: see the class.
          step: the training step, int32 scalar; None takes the weights that terms have after their warm-up.

        Returns:
          (loss, metrics), all float32 scalars. Metrics are `loss`, `loss/TERM`, the metrics of the terms such as `accuracy/TERM`
          (0..1) and `valid/TERM` (the fraction of pairs that count), and `feature_std/BRANCH`. With `source_terms` also `source_sums`,
          float32 [N, S, 2], for `source_losses`.
        """
        inputs = self.step_inputs(samples, params)
        output = self.forward(params, inputs)
        loss, metrics = self.loss_and_metrics(output, inputs, step)
        if self.source_terms:
            sums = []
            for term in self.source_terms:
                assert term.clip_losses is not None
                values, weights = term.clip_losses(output, inputs, self.config)
                sums.append(sum_by_source(values, weights, samples["source"], self.num_sources))
            metrics["source_sums"] = jax.lax.stop_gradient(jnp.stack(sums))
        return loss, metrics

    def source_losses(self, sums: Float[Array, "N S 2"], step=None) -> Float[Array, " S"]:
        """Returns the weighted sum of the terms over the clips of each source, float32 [S]; 0 for a source without clips.

        Args:
          sums: `source_sums` of a batch, or their mean over micro-batches.
          step: see `__call__`.
        """
        weights = self.weights(step)
        terms = jnp.stack([weights[term.name] for term in self.source_terms])
        means = sums[..., 0] / jnp.where(sums[..., 1] > 0, sums[..., 1], 1)
        return (terms[:, None] * means).sum(0)

    def step_inputs(self, samples, params=None) -> ModelInputs:
        """Makes the inputs of a training step: views and masks, with only the masked tokens that the decoders are to predict.

        Args:
          samples: see the class.
          params: with those of the teacher, for its features; not read without a teacher.
        """
        inputs = self.make_inputs.subsample(self.make_inputs(samples), samples)
        if self.teacher is None or params is None:
            return inputs
        views = self.terms.views
        clips = first_views(self._encoded(self.teacher, inputs.video, inputs.video_patches), views, min(views, 2))
        norm = self.config.video_branch.teacher.norm
        return inputs.replace(video_latents=teacher_features(self.teacher, params[TEACHER], clips, norm))

    def loss_and_metrics(
        self, output: CrossVideoOutput, inputs: ModelInputs, step=None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Computes the loss and the metrics, see `__call__`, from the model's output for `inputs`."""
        losses: dict[str, Array] = {}
        extra: dict[str, Array] = {}
        for term in self.loss_terms:
            losses[term.name], metrics = term(output, inputs, self.config)
            extra |= {f"{metric}/{term.name}": value for metric, value in metrics.items()}
        total = weighted_sum(losses, self.weights(step))
        metrics = {"loss": total} | {f"loss/{name}": loss for name, loss in losses.items()} | extra
        for branch in ("video", "image"):
            features = getattr(output, f"{branch}_features")
            if features is not None:
                metrics[f"feature_std/{branch}"] = feature_std(features)
        return total, metrics

    def forward(self, params, inputs: ModelInputs) -> CrossVideoOutput:
        """Runs the model."""
        output = self.model.apply(
            {"params": {name: part for name, part in params.items() if name != TEACHER}}, *self._model_arguments(inputs)
        )
        assert isinstance(output, CrossVideoOutput)  # no collection is mutable, which would come with it
        return output

    def weights(self, step=None) -> dict[str, Float[Array, ""]]:
        """Weight of every active term at a step, float32 scalars; without a step the weights after their warm-up."""
        weights = {}
        for term in self.loss_terms:
            weight, warmup = jnp.float32(self.config.loss[term.name]), self.warmup_steps.get(term.name)
            weights[term.name] = weight * jnp.minimum(1.0, step / warmup) if warmup and step is not None else weight
        return weights

    def video_targets(self, inputs: ModelInputs) -> Targets:
        """Reconstruction targets of the video branch, see `targets.video_targets`."""
        return video_targets(self.config, inputs)

    def normalize(self, pixels: Float[Array, "*axes C"]) -> Float[Array, "*axes C"]:
        """Normalizes pixels, or patches, in 0..1 by the mean and standard deviation of config.augment, as the encoders expect them."""
        return normalize(pixels, self.config.augment.mean, self.config.augment.std)

    def target_pixels(self, pixels: Float[AnyArray, "*axes C"], branch) -> Float[AnyArray, "*axes C"]:
        """Pixels in 0..1 in the space of a branch's targets, see `targets.target_pixels`."""
        return target_pixels(pixels, branch.target_norm, self.config.augment.mean, self.config.augment.std)

    def _model_arguments(self, inputs: ModelInputs):
        video, image = (None if branch is None else branch.encoder for branch in (self.model.video, self.model.image))
        video = self._encoded(video, inputs.video, inputs.video_patches)
        image = self._encoded(image, inputs.image, inputs.image_patches)
        return video, inputs.video_mask, image, inputs.image_mask, inputs.slots

    def _encoded(self, encoder, pixels, patches):
        """The normalized clips that an encoder reads, as patches where it takes them and they are made; or None."""
        if patches is not None and getattr(encoder, "takes_patches", False):
            return self.normalize(patches)
        return None if pixels is None else self.normalize(pixels)
