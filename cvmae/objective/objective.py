"""The pre-training objective: from parameters and a batch of clips to one loss and every number that is logged of it."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from cvmae.augment import normalize
from cvmae.models import build
from cvmae.models.autoencoder import Targets
from cvmae.models.crossvideo import CrossVideo, CrossVideoOutput
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
    """METHOD sections 2 to 5 as a pure function of parameters and samples.

    Attributes:
      model: the Flax module.
      terms: the names of the active loss terms, and what the model computes for them.
      loss_terms: the active loss terms, in the order in which they are computed.

    Raises:
      ValueError: a config field does not fit; the message names it.
    """

    def __init__(self, config, warmup_steps: dict[str, int] | None = None, rules: Rules | None = None):
        """Builds the model and the input maker.

        Args:
          config: of task=pretrain.
          warmup_steps: over which the weight of a term rises linearly from 0.
          rules: of the mesh that the model is to run on; None for one device.
        """
        self.config, self.warmup_steps = config, dict(warmup_steps or {})
        self.model, self.rules = build_model(config, rules), rules
        self.terms, self.loss_terms = self.model.terms, weighted_terms(config)
        self.make_inputs = InputBuilder(config, self.terms)

    def init(self, key: Key[Array, ""], samples):
        """Parameters of the parts that active terms need."""
        return self.model.init(key, *self._model_arguments(self.make_inputs(samples)))["params"]

    def __call__(self, params, samples, step=None) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """(loss, metrics) on samples, as `inputs.InputBuilder` takes them, at a step; all float32 scalars.

        Metrics: `loss/TERM`, `accuracy/TERM` of contrastive terms (0..1), `feature_std/BRANCH`, and `loss`.
        """
        inputs = self.make_inputs.subsample(self.make_inputs(samples), samples)
        output = self.forward(params, inputs)
        losses, extra = {}, {}
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
        """One pass of the model."""
        return self.model.apply({"params": params}, *self._model_arguments(inputs))

    def weights(self, step=None) -> dict[str, Float[Array, ""]]:
        """The weight of every active term at a step, float32; without a step the weights after their warm-up."""
        weights = {}
        for term in self.loss_terms:
            warmup, fraction = self.warmup_steps.get(term.name), 1.0
            if warmup and step is not None:
                fraction = jnp.minimum(1.0, step / warmup)
            weights[term.name] = jnp.float32(self.config.loss[term.name]) * fraction
        return weights

    def video_targets(self, inputs: ModelInputs) -> Targets:
        """Targets of the views that are predicted: v and v⁺, not the reversed clip."""
        return video_targets(self.config, inputs)

    def normalize(self, pixels: Float[Array, "*axes 3"]) -> Float[Array, "*axes 3"]:
        """Pixels in 0..1 as the encoders take them."""
        return normalize(pixels, self.config.augment.mean, self.config.augment.std)

    def target_pixels(self, pixels: Float[Array, "*axes 3"], branch) -> Float[Array, "*axes 3"]:
        """Pixels in 0..1 as the targets of a branch are made of them."""
        return target_pixels(pixels, branch.target_norm, self.config.augment.mean, self.config.augment.std)

    def _model_arguments(self, inputs: ModelInputs):
        image = None if inputs.image is None else self.normalize(inputs.image)
        return self.normalize(inputs.video), inputs.video_mask, image, inputs.image_mask, inputs.slots
