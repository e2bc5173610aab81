"""The pre-training objective: from parameters and a batch of clips to one loss and every number that is logged of it."""

import jax.numpy as jnp

from cvmae.augment import normalize
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import build_model, decoder_spec, image_grid, video_grid
from cvmae.models.crossvideo import CrossVideoOutput, first_of_mask, first_views
from cvmae.objective import losses
from cvmae.objective.views_and_masks import InputBuilder, ModelInputs
from cvmae.parallel.logical_axes import Rules


def target_pixels(pixels, norm: str, mean, std):
    """Pixels in 0..1 as targets normalized by `norm` are made of them.

    VideoMAE normalizes raw pixels per channel; MAE and mae_st normalize what the encoder sees.
    """
    return pixels if norm == "patch_channel" else normalize(pixels, mean, std)


class Objective:
    """METHOD sections 2 to 5 as a pure function of parameters and samples.

    Attributes:
      model: the Flax module.
      terms: which terms are active.

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
        self.terms = self.model.terms
        self.make_inputs = InputBuilder(config)

    def init(self, key, samples):
        """Parameters of the parts that active terms need."""
        return self.model.init(key, *self._model_arguments(self.make_inputs(samples)))["params"]

    def __call__(self, params, samples, step):
        """(loss, metrics) on samples, as `inputs.InputBuilder` takes them, at a step; all float32 scalars.

        Metrics: `loss/TERM`, `accuracy/TERM` of contrastive terms (0..1), `feature_std/BRANCH`, and `loss`.
        """
        inputs = self.make_inputs.subsample(self.make_inputs(samples), samples)
        output = self.forward(params, inputs)
        terms = self.reconstruction_terms(output, inputs)
        contrast = losses.contrastive_terms(output, self.terms.active, self.config.contrast.temperature)
        terms |= {name: loss for name, (loss, _) in contrast.items()}
        total = losses.weighted_sum(terms, self.weights(step))
        metrics = {"loss": total} | {f"loss/{name}": loss for name, loss in terms.items()}
        metrics |= {f"accuracy/{name}": accuracy for name, (_, accuracy) in contrast.items()}
        for branch in ("video", "image"):
            features = getattr(output, f"{branch}_features")
            if features is not None:
                metrics[f"feature_std/{branch}"] = losses.feature_std(features)
        return total, metrics

    def forward(self, params, inputs: ModelInputs) -> CrossVideoOutput:
        """One pass of the model."""
        return self.model.apply({"params": params}, *self._model_arguments(inputs))

    def weights(self, step) -> dict:
        """The weight of every active term at a step, float32."""
        weights = {}
        # Not in the order of the set: that differs between processes, and with it the compiled program.
        for name in sorted(self.terms.active):
            share = 1.0
            if self.warmup_steps.get(name):
                share = jnp.minimum(1.0, step / self.warmup_steps[name])
            weights[name] = jnp.float32(self.config.loss[name]) * share
        return weights

    def reconstruction_terms(self, output: CrossVideoOutput, inputs: ModelInputs) -> dict:
        """The active reconstruction terms, float32 scalars."""
        terms = {}
        if output.video_predictions is not None:
            targets = self.video_targets(inputs)
            terms["mse_video"] = losses.masked_mse(output.video_predictions, targets.values).mean()
        if output.image_predictions is not None:
            targets = self._targets(inputs.image, inputs.image_mask, self.config.image_branch, image_grid(self.config))
            terms["mse_image"] = losses.masked_mse(output.image_predictions, targets.values).mean()
        return terms

    def video_targets(self, inputs: ModelInputs):
        """Targets of the views that are predicted: v and v⁺, not the reversed clip."""
        views = self.terms.views
        count = min(views, 2)
        video, mask = first_views(inputs.video, views, count), first_of_mask(inputs.video_mask, views, count)
        return self._targets(video, mask, self.config.video_branch, video_grid(self.config))

    def normalize(self, pixels):
        """Pixels in 0..1 as the encoders take them."""
        return normalize(pixels, self.config.augment.mean, self.config.augment.std)

    def target_pixels(self, pixels, branch):
        """Pixels in 0..1 as the targets of a branch are made of them."""
        return target_pixels(pixels, branch.target_norm, self.config.augment.mean, self.config.augment.std)

    def _targets(self, pixels, mask, branch, grid):
        return make_targets(self.target_pixels(pixels, branch), mask, decoder_spec(self.config, branch), grid, branch.target_norm)

    def _model_arguments(self, inputs: ModelInputs):
        image = None if inputs.image is None else self.normalize(inputs.image)
        return self.normalize(inputs.video), inputs.video_mask, image, inputs.image_mask, inputs.slots
