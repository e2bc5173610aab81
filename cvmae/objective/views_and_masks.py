"""From a batch of uint8 clips to what the model and its losses take: views, masks and slots, inside the jitted step."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, Key

from cvmae import augment, rng
from cvmae.models import masking
from cvmae.models.build import image_grid, video_grid
from cvmae.models.crossvideo import ActiveTerms
from cvmae.models.patches import Grid

STREAMS = ("views", "mask_video", "mask_image")


@flax.struct.dataclass
class ModelInputs:
    """What a pass takes; V views and F frames of a clip stand next to each other on the first axis.

    Attributes:
      video: float32 [B·V, T, H, W, 3], pixels in 0..1.
      video_mask: of B·V samples.
      image: float32 [B·F, 1, H, W, 3], pixels in 0..1, or None.
      image_mask: of B·F samples, or None.
      slots: int32 [B, V, F], the slot of each view that holds each sampled frame.
    """

    video: jax.Array
    video_mask: masking.Mask
    image: jax.Array | None
    image_mask: masking.Mask | None
    slots: jax.Array


def sample_keys(key: Key[Array, ""], step, count: int) -> dict[str, Key[Array, " {count}"]]:
    """{stream: one key a sample} of a step, for the `count` samples of the global batch."""
    return {name: rng.per_sample(rng.stream(key, name, step), count) for name in STREAMS}


def view_spec(config, views: int) -> augment.ViewSpec:
    """How config.augment wants the views."""
    c = config.augment
    crop = augment.Crop(c.size, c.scale, c.ratio, c.flip)
    plus = augment.Crop(c.size, c.plus_scale, c.plus_ratio, c.flip)
    color = augment.Color(c.brightness, c.contrast, c.saturation, c.hue, c.color_probability)
    return augment.ViewSpec(crop, plus, color, views, config.image_branch.crop)


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """How one branch is masked."""

    grid: Grid
    kind: str
    ratio: float
    rounding: str

    def draw(self, keys: Key[Array, " B"], count: int) -> masking.Mask:
        """Masks of B·count samples, `count` from each of B keys."""
        keys = jax.vmap(lambda k: jax.random.split(k, count))(keys).reshape(-1)
        return masking.draw(keys, self.grid, self.kind, self.ratio, self.rounding)

    def subsample(self, mask: masking.Mask, keys: Key[Array, " B"], kind: str, share: float) -> masking.Mask:
        """See `masking.subsample`; `keys` are the [B] that the mask's own came from."""
        count = mask.ids_shuffle.shape[0] // keys.shape[0]
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 1), count))(keys).reshape(-1)
        return masking.subsample(mask, keys, self.grid, kind, share)


class InputBuilder:
    """Makes `ModelInputs` the way a config says."""

    def __init__(self, config, terms: ActiveTerms):
        self.views, self.image = view_spec(config, terms.views), terms.image_branch
        video, image = config.video_branch.mask, config.image_branch.mask
        self.video_mask = MaskSpec(video_grid(config), video.kind, video.ratio, video.rounding)
        self.image_mask = MaskSpec(image_grid(config), image.kind, image.ratio, image.rounding) if self.image else None
        self.decoders = {name: config[f"{name}_branch"].decoder for name in ("video", "image")}

    def __call__(self, samples) -> ModelInputs:
        """Makes the inputs of samples: {video u8 [B, T, H0, W0, 3], frame_index i32 [B, F], and a key a stream [B]}."""
        video, frames = jax.vmap(lambda k, v, i: augment.make_views(k, v, i, self.views, self.image))(
            samples["views"], samples["video"], samples["frame_index"]
        )
        count = samples["frame_index"].shape[1]
        return ModelInputs(
            video=video.reshape(-1, *video.shape[2:]),
            video_mask=self.video_mask.draw(samples["mask_video"], self.views.views),
            image=None if frames is None else frames.reshape(-1, 1, *frames.shape[2:]),
            image_mask=self.image_mask.draw(samples["mask_image"], count) if self.image else None,
            slots=self.slots(samples["frame_index"]),
        )

    def subsample(self, inputs: ModelInputs, samples) -> ModelInputs:
        """The same inputs with only decoder.share of the hidden tokens of each branch predicted."""
        new = {}
        for name, spec in (("video", self.video_mask), ("image", self.image_mask)):
            decoder, mask = self.decoders[name], getattr(inputs, f"{name}_mask")
            if mask is not None and decoder.share < 1:
                new[f"{name}_mask"] = spec.subsample(mask, samples[f"mask_{name}"], decoder.subsample, decoder.share)
        return inputs.replace(**new)

    def slots(self, frame_index: Int[Array, "B F"]) -> Int[Array, "B V F"]:
        """The slot of each view that holds each sampled frame, int32 [B, V, F]; the reversed clip counts from its end."""
        grid = self.video_mask.grid
        forward = frame_index // grid.tubelet
        backward = (grid.num_frames - 1 - frame_index) // grid.tubelet
        return jnp.stack([forward, forward, backward][: self.views.views], axis=1)
