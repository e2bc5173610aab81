"""Model inputs from a batch of uint8 clips, made inside the jitted step: views, masks and temporal positions (METHOD 2 and 3)."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Key

from cvmae import augment, rng
from cvmae.models import masking
from cvmae.models.build import DTYPES, image_grid, video_grid
from cvmae.models.crossvideo import ActiveTerms
from cvmae.models.patches import Grid

STREAMS = ("views", "mask_video", "mask_image")  # of random numbers, see cvmae.rng


class ModelInputs(flax.struct.PyTreeNode):
    """Inputs of one forward pass; the V views and the F sampled frames of a clip are adjacent on the first axis.

    Attributes:
      video: float32 [B·V, T, H, W, 3], pixels in 0..1.
      video_mask: a mask for each of the B·V views.
      image: float32 [B·F, 1, H, W, 3], pixels in 0..1; None without an image branch.
      image_mask: a mask for each of the B·F frames; None without an image branch.
      slots: int32 [B, V, F], the temporal position, in tubelets, of each sampled frame in each view; below 0 or above the last one
        if the frame is not in the view.
      video_patches: float32 [B·V, N, P], `video` cut into tokens; None: not made.
      image_patches: float32 [B·F, N, P], `image` cut into tokens; None: not made.
      video_latents: float32 [B·min(V, 2), N, D], a teacher's features of v and v⁺ in the order of the grid; None without a teacher.
    """

    video: Array
    video_mask: masking.Mask
    image: Array | None
    image_mask: masking.Mask | None
    slots: Array
    video_patches: Array | None = None
    image_patches: Array | None = None
    video_latents: Array | None = None


def sample_keys(key: Key[Array, ""], step, count: int) -> dict[str, Key[Array, " {count}"]]:
    """Random keys of a step by name of their stream, [count] each: one for each of the `count` samples of the global batch."""
    return {name: rng.per_sample(rng.stream(key, name, step), count) for name in STREAMS}


def view_spec(config, views: int) -> augment.ViewSpec:
    """Views as config.augment describes them; `views` is their number V."""
    c = config.augment
    crop = augment.Crop(c.size, c.scale, c.ratio, c.flip)
    plus = augment.Crop(c.size, c.plus_scale, c.plus_ratio, c.flip)
    color = augment.Color(c.brightness, c.contrast, c.saturation, c.hue, c.color_probability)
    # Configs of earlier versions lack these five.
    distortion = augment.Distortion(*(c.get(name, 0.0) for name in ("grayscale", "blur", "solarize")))
    first_view, shift = c.get("first_view", "crop"), c.get("plus_shift", 0)
    return augment.ViewSpec(
        crop, plus, color, views, config.image_branch.crop, DTYPES[config.dtype], distortion, first_view, shift
    )


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Masking of one branch.

    Attributes:
      grid: the tokens.
      mask_kind: one of `masking.KINDS`.
      ratio: fraction of the tokens that is masked.
      rounding: of the number of visible tokens, one of `masking.ROUNDINGS`.
    """

    grid: Grid
    mask_kind: str
    ratio: float
    rounding: str

    def draw(self, keys: Key[Array, " B"], count: int) -> masking.Mask:
        """Draws masks of B·count samples, `count` from each of B keys."""
        keys = jax.vmap(lambda k: jax.random.split(k, count))(keys).reshape(-1)
        return masking.draw(keys, self.grid, self.mask_kind, self.ratio, self.rounding)

    def subsample(self, mask: masking.Mask, keys: Key[Array, " B"], method: str, fraction: float) -> masking.Mask:
        """Leaves a fraction of the masked tokens to predict, see `masking.subsample`; `keys` [B] are those given to `draw`."""
        count = mask.ids_shuffle.shape[0] // keys.shape[0]
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 1), count))(keys).reshape(-1)
        return masking.subsample(mask, keys, self.grid, method, fraction)


class InputBuilder:
    """Makes `ModelInputs` from a batch of clips, as a config and its active loss terms need them."""

    def __init__(self, config, terms: ActiveTerms):
        self.views, self.image = view_spec(config, terms.views), terms.image_branch
        video, image = config.video_branch.mask, config.image_branch.mask
        self.video_mask = MaskSpec(video_grid(config), video.kind, video.ratio, video.rounding)
        self.image_mask = MaskSpec(image_grid(config), image.kind, image.ratio, image.rounding) if self.image else None
        self.decoders = {name: config[f"{name}_branch"].decoder for name in ("video", "image")}

    def __call__(self, samples) -> ModelInputs:
        """Makes views, masks and temporal positions.

        Args:
          samples: {"video": uint8 [B, T0, H0, W0, 3], "frame_index": int32 [B, F], and the keys [B] of `sample_keys`}; T0 is T, or
            T + `augment.plus_shift`.
        """
        pixels = self._pixels(samples["views"], samples["video"], samples["frame_index"])
        # The samples of a batch first, their views and frames second, so that no sharded row moves.
        pixels = {name: array.reshape(-1, *array.shape[2:]) for name, array in pixels.items()}
        count = samples["frame_index"].shape[1]
        return ModelInputs(
            video=pixels["video"],
            video_mask=self.video_mask.draw(samples["mask_video"], self.views.views),
            image_mask=None if self.image_mask is None else self.image_mask.draw(samples["mask_image"], count),
            image=pixels.get("image"),
            slots=self.slots(samples["views"], samples["frame_index"]),
            video_patches=pixels["video_patches"],
            image_patches=pixels.get("image_patches"),
        )

    def _pixels(self, keys, video, frame_index) -> dict[str, Array]:
        """Views and frames of each clip, and both as patches. What nothing reads is left out when the step is compiled.

        Each view is cut into tokens by itself, right from the layout that the resize gives it: on TPUs a transpose of all views in
        float32 takes as long as the encoder.
        """

        def planes(key, video, frame_index):
            return augment.make_planes(key, video, frame_index, self.views, self.image)

        views, frames = jax.vmap(planes)(keys, video, frame_index)

        def patches(planes, grid):
            return augment.planes_to_patches(planes, grid.tubelet, grid.patch)

        made = {
            "video": jnp.stack([augment.from_planes(view) for view in views], axis=1),
            "video_patches": jnp.stack([patches(view, self.video_mask.grid) for view in views], axis=1),
        }
        if frames is not None and self.image_mask is not None:
            made["image"] = augment.from_planes(frames)[:, :, None]
            made["image_patches"] = jnp.stack(
                [patches(frames[..., i : i + 1, :], self.image_mask.grid) for i in range(frames.shape[-2])], axis=1
            )
        return made

    def subsample(self, inputs: ModelInputs, samples) -> ModelInputs:
        """Returns the inputs with only the fraction `decoder.share` of each branch's masked tokens left to predict."""
        masks = {}
        for name, spec in (("video", self.video_mask), ("image", self.image_mask)):
            decoder, mask = self.decoders[name], getattr(inputs, f"{name}_mask")
            if spec is not None and mask is not None and decoder.share < 1:
                masks[f"{name}_mask"] = spec.subsample(mask, samples[f"mask_{name}"], decoder.subsample, decoder.share)
        return inputs.replace(**masks)

    def slots(self, keys: Key[Array, " B"], frame_index: Int[Array | np.ndarray, "B F"]) -> Int[Array, "B V F"]:
        """Temporal position of each sampled frame in each view, int32 [B, V, F]; the reversed clip counts from its end."""
        grid, frames = self.video_mask.grid, jnp.asarray(frame_index)
        in_plus = frames
        if self.views.plus_shift:
            starts = jax.vmap(lambda key: augment.draw_starts(key, self.views))(keys)
            in_plus = frames + starts[:, :1] - starts[:, 1:]
        in_views = [frames, in_plus, grid.num_frames - 1 - frames][: self.views.views]
        return jnp.stack(in_views, axis=1) // grid.tubelet
