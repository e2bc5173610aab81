"""The training objective on clips not trained on, and reconstruction beside what needs no training."""

import jax
import jax.numpy as jnp
import numpy as np

from cvmae import losses, multihost
from cvmae.config import ConfigError
from cvmae.data.pipeline import make_eval_loader
from cvmae.inputs import sample_keys
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import decoder_spec, video_grid
from cvmae.models.crossvideo import first_of_mask, first_views
from cvmae.models.patches import Grid

CLIPS = ("video", "frame_index")  # of a batch, what the objective takes
HELD_OUT_SEED = 20250211  # of views and masks; apart from any training seed, and the same for every evaluation


def full_batches(loader, size: int):
    """Batches of exactly `size` clips out of a loader's readable ones; what does not fill the last one is left out."""
    waiting: dict[str, list] = {}
    for batch in loader:
        keep = batch["valid"]
        for name in CLIPS:
            waiting.setdefault(name, []).extend(batch[name][keep])
        while len(waiting["video"]) >= size:
            yield {name: np.stack(rows[:size]) for name, rows in waiting.items()}
            waiting = {name: rows[size:] for name, rows in waiting.items()}


def reconstruction_errors(objective, params, inputs) -> dict:
    """Errors on the hidden patches of v, in the space of the targets, float32 scalars.

    `model`; `mean_patch`, which says the mean of the clip's visible patches everywhere; `nearest_patch`, which copies the visible
    patch that is nearest in (slot, row, column).
    """
    config, views = objective.config, objective.needs.views
    branch, grid = config.video_branch, video_grid(config)
    mask = first_of_mask(inputs.video_mask, views, 1)
    pixels = objective.target_pixels(first_views(inputs.video, views, 1), branch)
    every = make_targets(pixels, None, decoder_spec(config, branch), grid, branch.target_norm).values
    hidden, visible = masking.take_masked(every, mask), masking.take_visible(every, mask)
    output = objective.forward(params, inputs)
    predictions = first_views(output.video_predictions, min(views, 2), 1)
    nearest = jnp.take_along_axis(visible, nearest_visible(mask, grid)[..., None], axis=1)
    guesses = {"model": predictions, "mean_patch": visible.mean(1, keepdims=True), "nearest_patch": nearest}
    return {name: losses.masked_mse(guess, hidden).mean() for name, guess in guesses.items()}


def nearest_visible(mask: masking.Mask, grid: Grid):
    """For each hidden patch the place among the visible ones of the nearest, int32 [B, N - K]; the first of equals."""
    axes = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    places = jnp.asarray(np.stack([axis.reshape(-1) for axis in axes], axis=1), jnp.float32)
    apart = places[mask.masked][:, :, None] - places[mask.visible][:, None]
    return jnp.square(apart).sum(-1).argmin(-1)


class HeldOut:
    """Evaluates an objective on the clips of a source, always with the same views and masks."""

    def __init__(self, objective, source, put, share=multihost.Share()):
        """`put` makes arrays on the devices of a batch on the host; `share` is the part of every batch that this process reads.

        Raises:
          ConfigError: the source has fewer clips than there are devices.
        """
        self.objective, self.source, self.put, self.share = objective, source, put, share
        devices = jax.device_count()
        self.size = min(objective.config.batch_size, len(source)) // devices * devices
        if not self.size:
            raise ConfigError(f"the held-out split has {len(source)} clips, fewer than the {devices} devices: give more")
        self._terms = jax.jit(lambda params, samples: objective(params, samples, 10**9)[1])
        self._errors = jax.jit(lambda params, samples: reconstruction_errors(objective, params, objective.make_inputs(samples)))

    def terms(self, params) -> dict[str, float]:
        """Every metric of the objective, averaged over whole batches; contrastive negatives are the batch."""
        return self._average(self._terms, params)

    def reconstruction(self, params) -> dict[str, float]:
        """See `reconstruction_errors`."""
        return self._average(self._errors, params)

    def samples(self):
        """Whole batches with the keys of their samples, on the devices."""
        key = jax.random.key(HELD_OUT_SEED)
        for number, batch in enumerate(self.batches()):
            yield self.put(batch) | sample_keys(key, number, self.size)

    def batches(self):
        """This process's rows of whole batches of readable clips; the batches are those of a lone process."""
        done = 0
        if self.share.count > 1:
            for batch in self._shared_batches():
                yield batch
                done += 1
            if done == len(self.source) // self.size:
                return
        # An unreadable clip moves all rows behind it, so from there on every process reads everything.
        with make_eval_loader(self.objective.config, self.source, self.size, done * self.size) as loader:
            for batch in full_batches(loader, self.size):
                yield {name: self.share.of(rows) for name, rows in batch.items()}

    def _shared_batches(self):
        """This process's rows of the whole batches before the first unreadable clip."""
        part = {"process_index": self.share.index, "process_count": self.share.count}
        with make_eval_loader(self.objective.config, self.source, self.size, **part) as loader:
            for batch in loader:
                if not all(multihost.values_of_all(bool(batch["valid"].all()))):
                    return
                yield {name: batch[name] for name in CLIPS}

    def _average(self, function, params) -> dict[str, float]:
        rows = [multihost.everywhere(function(params, samples)) for samples in self.samples()]
        if not rows:
            raise ConfigError("no whole batch of held-out clips could be read: see the files of config.data.eval_split")
        return {name: float(np.mean([row[name] for row in rows])) for name in sorted(rows[0])}
