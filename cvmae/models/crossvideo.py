"""CrossVideoMAE: the video branch, the image branch, and their embeddings in the contrastive space."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
from jaxtyping import Array, Float, Int32

from cvmae.array_types import AnyArray
from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder
from cvmae.models.backbone import EncoderOutput
from cvmae.models.heads import ProjectionHead, pool, pool_time_patches
from cvmae.parallel.logical_axes import Rules

# Fields of `CrossVideoOutput`, by the branch that computes them.
VIDEO_OUTPUTS = frozenset({"video_features", "video_predictions", "video_latents", "z", "f", "f_valid"})
IMAGE_OUTPUTS = frozenset({"image_features", "image_predictions", "h"})


@dataclasses.dataclass(frozen=True)
class ActiveTerms:
    """The outputs that the active loss terms need; everything else is left out of the parameters and of the program.

    `cvmae.objective.terms.active_terms` computes it from a config.

    Attributes:
      active: the names of the terms.
      outputs: the fields of `CrossVideoOutput` that they read.
      views: the views of a clip that are encoded: 1 (v), 2 (v and v⁺) or 3 (v, v⁺ and the time-reversed clip).
    """

    active: frozenset[str]
    outputs: frozenset[str]
    views: int = 1

    @property
    def image_branch(self) -> bool:
        """Returns True if an output of the image branch is needed."""
        return bool(self.outputs & IMAGE_OUTPUTS)

    @property
    def video_branch(self) -> bool:
        """Returns True if an output of the video branch is needed."""
        return bool(self.outputs & VIDEO_OUTPUTS)

    def has_decoder(self, branch: str) -> bool:
        """Returns True if masked patches of a branch, `video` or `image`, are predicted: their pixels or their features."""
        return bool(self.outputs & {f"{branch}_predictions", f"{branch}_latents"})


@flax.struct.dataclass
class CrossVideoOutput:
    """The result of a forward pass; None where no active term needs it. V views (v, v⁺, reversed), F sampled frames.

    Attributes:
      video_predictions: float32 [B·min(V, 2), N - K, P], of v and v⁺.
      image_predictions: float32 [B·F, N - K, P].
      video_grid_predictions, image_grid_predictions: the same of all N patches, in the order of the grid; None where the decoder
        predicts masked patches only (`Autoencoder.decodes_grid`).
      video_latents, video_grid_latents: likewise, predictions of a teacher's features, of the teacher's width.
      z: float32 [B, V, E], embeddings at the level of the video.
      f: float32 [B, V, F, E], embeddings of the time patches of the sampled frames.
      f_valid: bool [B, F], True if that time patch has visible tokens in every view.
      h: float32 [B, F, E], embeddings of the sampled frames.
      video_features: float32 [B, D], the pooled encoder output for v.
      image_features: float32 [B·F, D].
    """

    video_predictions: jax.Array | None = None
    image_predictions: jax.Array | None = None
    video_grid_predictions: jax.Array | None = None
    image_grid_predictions: jax.Array | None = None
    video_latents: jax.Array | None = None
    video_grid_latents: jax.Array | None = None
    z: jax.Array | None = None
    f: jax.Array | None = None
    f_valid: jax.Array | None = None
    h: jax.Array | None = None
    video_features: jax.Array | None = None
    image_features: jax.Array | None = None


def split_views(x, views: int):
    """Reshapes [B·V, ...] to [B, V, ...]; the batch is the outer axis, so that no sharded row moves."""
    return x.reshape(x.shape[0] // views, views, *x.shape[1:])


def first_views(x, views: int, count: int):
    """The first `count` of `views` views: [B·V, ...] -> [B·count, ...]."""
    if count == views:
        return x
    return split_views(x, views)[:, :count].reshape(x.shape[0] // views * count, *x.shape[1:])


class CrossVideo(nn.Module):
    """Both branches.

    Attributes:
      terms: the active terms.
      video: the SpatioTemporalMAE; None where no term needs it.
      image: the MAE over sampled frames; None where no term needs it.
      width: E, of the contrastive space.
      hidden: width of the heads' hidden layer; 0 takes the encoder's.
      head_layers: number of layers of the heads.
      freeze_image: the image encoder is a fixed teacher: no gradient reaches it.
      rules: of the mesh that the heads run on; None for JAX's default device.
    """

    terms: ActiveTerms
    video: Autoencoder | None
    image: Autoencoder | None
    width: int = 256
    hidden: int = 0
    head_layers: int = 2
    freeze_image: bool = False
    rules: Rules | None = None

    @nn.compact
    def __call__(
        self,
        video: Float[AnyArray, "BV T H W 3"] | Float[AnyArray, "BV N P"] | None,
        video_mask: masking.Mask | None,
        image: Float[AnyArray, "BF 1 h w 3"] | Float[AnyArray, "BF n p"] | None,
        image_mask: masking.Mask | None,
        time_patches: Int32[Array, "B V F"],
    ) -> CrossVideoOutput:
        """Encodes, embeds and predicts.

        Args:
          video: B·V views, normalized; the views of a clip are consecutive rows. Patches where the encoder takes them.
          video_mask: of the same rows.
          image: B·F frames, normalized; the frames of a clip are consecutive rows. Patches where the encoder takes them.
          image_mask: of the same rows.
          time_patches: the time patch of each view that holds each sampled frame.
        """
        outputs: dict[str, jax.Array] = {}
        if self.terms.video_branch:
            outputs |= self._video(video, video_mask, time_patches)
        if self.terms.image_branch:
            outputs |= self._image(image, image_mask, time_patches.shape[2])
        return CrossVideoOutput(**outputs)

    def _head(self, name: str, encoder_width: int):
        width = self.hidden or encoder_width
        return ProjectionHead(width, self.width, layers=self.head_layers, rules=self.rules, name=name)

    def _video(self, video, mask, time_patches) -> dict[str, jax.Array]:
        needed, views = self.terms.outputs, self.terms.views
        assert self.video is not None  # an active term needs this branch
        encoded = self.video.encode(video, mask)
        pooled, width = pool(encoded.tokens), encoded.tokens.shape[-1]
        outputs = {"video_features": first_views(pooled, views, 1)}
        if self.terms.has_decoder("video"):
            count = min(views, 2)
            predicted = EncoderOutput(
                first_views(encoded.tokens, views, count),
                None if encoded.cls is None else first_views(encoded.cls, views, count),
            )
            outputs |= _predictions("video", self.video, predicted, first_of_mask(mask, views, count))
        if "z" in needed:
            outputs["z"] = split_views(self._head("video_head", width)(pooled), views)
        if needed & {"f", "f_valid"}:
            rows = time_patches.reshape(-1, time_patches.shape[2])
            frames, valid = pool_time_patches(encoded.tokens, mask.ids_keep, rows, self.video.encoder.grid.spatial_patches)
            outputs["f"] = split_views(self._head("frame_head", width)(frames), views)
            outputs["f_valid"] = split_views(valid, views).all(axis=1)
        return outputs

    def _image(self, image, mask, frames: int) -> dict[str, jax.Array]:
        needed = self.terms.outputs
        assert self.image is not None  # an active term needs this branch
        encoded = self.image.encode(image, mask)
        if self.freeze_image:
            encoded = jax.lax.stop_gradient(encoded)
        pooled = pool(encoded.tokens)
        outputs = {"image_features": pooled}
        if "image_predictions" in needed:
            outputs |= _predictions("image", self.image, encoded, mask)
        if "h" in needed:
            outputs["h"] = split_views(self._head("image_head", encoded.tokens.shape[-1])(pooled), frames)
        return outputs


def _predictions(branch: str, autoencoder: Autoencoder, encoded: EncoderOutput, mask: masking.Mask) -> dict[str, jax.Array]:
    """Predictions of the masked patches, and of all patches where that moves no token by the mask; what is not read costs nothing."""
    in_grid = autoencoder.decodes_grid(mask)
    decoded = autoencoder.decode_heads(encoded, mask, predict_all=in_grid)
    heads = {"predictions": decoded.pixels, "latents": decoded.latents}
    made = {name: values for name, values in heads.items() if values is not None}
    if not in_grid:
        return {f"{branch}_{name}": values for name, values in made.items()}
    masked = {f"{branch}_{name}": masking.take_masked(values, mask) for name, values in made.items()}
    return masked | {f"{branch}_grid_{name}": values for name, values in made.items()}


def first_of_mask(mask: masking.Mask, views: int, count: int) -> masking.Mask:
    """The masks of the first `count` of `views` views."""
    return mask.replace(
        ids_shuffle=first_views(mask.ids_shuffle, views, count), ids_restore=first_views(mask.ids_restore, views, count)
    )
