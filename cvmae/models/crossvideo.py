"""CrossVideoMAE: the video branch, the image branch, and the embeddings that their contrast is taken on."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder
from cvmae.models.heads import ProjectionHead, pool, pool_slots
from cvmae.models.vit import EncoderOutput

# Fields of `CrossVideoOutput`, by the branch that computes them.
VIDEO_OUTPUTS = frozenset({"video_features", "video_predictions", "z", "f", "f_valid"})
IMAGE_OUTPUTS = frozenset({"image_features", "image_predictions", "h"})


@dataclasses.dataclass(frozen=True)
class ActiveTerms:
    """What the active loss terms need; everything else is left out of the parameters and of the program.

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


@flax.struct.dataclass
class CrossVideoOutput:
    """What a pass gives; None where no active term needs it. V views (v, v⁺, reversed), F sampled frames.

    Attributes:
      video_predictions: float32 [B·min(V, 2), N - K, P], of v and v⁺.
      image_predictions: float32 [B·F, N - K, P].
      z: float32 [B, V, E], embeddings at the level of the video.
      f: float32 [B, V, F, E], embeddings of the slots of the sampled frames.
      f_valid: bool [B, F], whether that slot has visible tokens in every view.
      h: float32 [B, F, E], embeddings of the sampled frames.
      video_features: float32 [B, D], the pooled encoder output for v.
      image_features: float32 [B·F, D].
    """

    video_predictions: jax.Array | None = None
    image_predictions: jax.Array | None = None
    z: jax.Array | None = None
    f: jax.Array | None = None
    f_valid: jax.Array | None = None
    h: jax.Array | None = None
    video_features: jax.Array | None = None
    image_features: jax.Array | None = None


def split_views(x, views: int):
    """[B·V, ...] -> [B, V, ...]; the batch is the outer axis, so that a sharded batch stays where it is."""
    return x.reshape(x.shape[0] // views, views, *x.shape[1:])


def first_views(x, views: int, count: int):
    """The first `count` of `views` views: [B·V, ...] -> [B·count, ...]."""
    if count == views:
        return x
    return split_views(x, views)[:, :count].reshape(x.shape[0] // views * count, *x.shape[1:])


class CrossVideo(nn.Module):
    """Both branches.

    Attributes:
      terms: which terms are active.
      video: the SpatioTemporalMAE; None where no term looks at the video.
      image: the MAE over sampled frames; None where no term looks at it.
      width: E, of the contrastive space.
      hidden: width of the heads' hidden layer; 0 takes that of the encoder before it.
      freeze_image: the image encoder is a fixed teacher: no gradient reaches it.
    """

    terms: ActiveTerms
    video: Autoencoder | None
    image: Autoencoder | None
    width: int = 256
    hidden: int = 0
    freeze_image: bool = False

    @nn.compact
    def __call__(self, video, video_mask, image, image_mask, slots) -> CrossVideoOutput:
        """Encodes, embeds and predicts.

        Args:
          video: [B·V, T, H, W, 3], normalized; the views of a clip stand next to each other.
          video_mask: of B·V samples.
          image: [B·F, 1, H, W, 3], normalized; the frames of a clip stand next to each other.
          image_mask: of B·F samples.
          slots: int32 [B, V, F], the slot of each view that holds each sampled frame.
        """
        parts = {}
        if self.terms.video_branch:
            parts |= self._video(video, video_mask, slots)
        if self.terms.image_branch:
            parts |= self._image(image, image_mask, slots.shape[2])
        return CrossVideoOutput(**parts)

    def _head(self, name: str, encoder_width: int):
        return ProjectionHead(self.hidden or encoder_width, self.width, name=name)

    def _video(self, video, mask, slots):
        outputs, views = self.terms.outputs, self.terms.views
        encoded = self.video.encode(video, mask)
        pooled, width = pool(encoded.tokens), encoded.tokens.shape[-1]
        parts = {"video_features": first_views(pooled, views, 1)}
        if "video_predictions" in outputs:
            count = min(views, 2)
            seen = EncoderOutput(
                first_views(encoded.tokens, views, count),
                None if encoded.cls is None else first_views(encoded.cls, views, count),
            )
            parts["video_predictions"] = self.video.decode(seen, first_of_mask(mask, views, count))
        if "z" in outputs:
            parts["z"] = split_views(self._head("video_head", width)(pooled), views)
        if outputs & {"f", "f_valid"}:
            flat_slots = slots.reshape(-1, slots.shape[2])
            by_slot, valid = pool_slots(encoded.tokens, mask.ids_keep, flat_slots, self.video.encoder.grid.spatial_patches)
            parts["f"] = split_views(self._head("frame_head", width)(by_slot), views)
            parts["f_valid"] = split_views(valid, views).all(axis=1)
        return parts

    def _image(self, image, mask, frames: int):
        outputs = self.terms.outputs
        encoded = self.image.encode(image, mask)
        if self.freeze_image:
            encoded = jax.lax.stop_gradient(encoded)
        pooled = pool(encoded.tokens)
        parts = {"image_features": pooled}
        if "image_predictions" in outputs:
            parts["image_predictions"] = self.image.decode(encoded, mask)
        if "h" in outputs:
            parts["h"] = split_views(self._head("image_head", encoded.tokens.shape[-1])(pooled), frames)
        return parts


def first_of_mask(mask: masking.Mask, views: int, count: int) -> masking.Mask:
    """The masks of the first `count` of `views` views."""
    return mask.replace(
        ids_shuffle=first_views(mask.ids_shuffle, views, count), ids_restore=first_views(mask.ids_restore, views, count)
    )
