"""What two branches make of one clip, before anything is drawn: attention, tokens, the image branch's attention, reconstructions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cvmae import rng
from cvmae.augment import standardise
from cvmae.evaluation.features import FeatureSpec, encode_tokens
from cvmae.models import masking
from cvmae.models.patches import target_frames
from cvmae.visualize.attention import AttentionSpec, attention_map
from cvmae.visualize.branch import Branches
from cvmae.visualize.reconstruction import Reconstruction, hide, rebuild


@dataclasses.dataclass(frozen=True)
class Look:
    """What encoders make of a whole clip.

    Attributes:
      attention: float32 [T', h, w], of the video branch, in multiples of an even share.
      tokens: float32 [N, D], of the video branch.
      image: float32 [T, h, w], the image branch's attention on each frame by itself; None without one.
    """

    attention: np.ndarray
    tokens: np.ndarray
    image: np.ndarray | None


class Looker:
    """Looks at clips float32 [T, H, W, 3] in 0..1, one at a time, through programs that are compiled once.

    Attributes:
      spec: of the video branch's attention.
      image_spec: of the image branch's, at the same place where a patch looks, else from its cls token where it has one.
    """

    def __init__(self, branches: Branches, config):
        """Raises: ValueError where an encoder has not got what config.visualize asks for."""
        c = config.visualize
        self.branches, self.config = branches, config
        self.spec = AttentionSpec(c.map, c.layer, c.head, c.query, tuple(c.position))
        self.spec.check(branches.video.encoder)
        self.image_spec, self._image = None, None
        if branches.image is not None:
            query = "patch" if c.query == "patch" else "cls" if branches.image.encoder.cls_token else "mean"
            self.image_spec = AttentionSpec(c.map, query=query, position=tuple(c.position))
            self._image = jax.jit(self._look_at_frames)
        self._whole, self._rebuild = jax.jit(self._look), jax.jit(self._rebuild_masked, static_argnums=2)

    def __call__(self, clip) -> Look:
        """Looks at a whole clip."""
        attention, tokens = self._whole(self.branches.video.params["encoder"], clip)
        image = None if self._image is None else np.asarray(self._image(self.branches.image.params["encoder"], clip))
        return Look(np.asarray(attention), np.asarray(tokens), image)

    def rebuild(self, clip, number: int, ratio: float) -> Reconstruction:
        """Hides `ratio` of a clip's tokens and predicts them, numpy [t, H, W, 3]; the mask depends on the seed and `number` alone."""
        key = rng.stream(jax.random.key(self.config.seed), "mask_video", number)
        found = self._rebuild(self.branches.video, (clip, key), ratio)
        return jax.tree.map(lambda a: np.asarray(a[0]), found)

    @property
    def frames(self) -> np.ndarray:
        """The frames of a clip that the decoder predicts, and so those that are drawn, int [t]."""
        decoder = self.branches.video.decoder
        return target_frames(self.branches.video.encoder.grid.num_frames, decoder.target_frames if decoder else 0)

    def _standardised(self, clips):
        return standardise(clips, self.config.augment.mean, self.config.augment.std)

    def _look(self, params, clip):
        encoder, clips = self.branches.video.encoder, self._standardised(clip[None])
        tokens = encode_tokens(encoder, params, clips, FeatureSpec(self.spec.layer, "all"))
        return attention_map(encoder, params, clips, self.spec)[0], tokens[0]

    def _look_at_frames(self, params, clip):
        frames = self._standardised(clip[:, None])
        return attention_map(self.branches.image.encoder, params, frames, self.image_spec)[:, 0]

    def _rebuild_masked(self, branch, clip_and_key, ratio: float):
        (clip, key), grid = clip_and_key, branch.encoder.grid
        pixels = jnp.asarray(clip)[None]
        mask = masking.draw(key[None], grid, self.config.visualize.mask, ratio)
        if branch.decoder is None:
            return hide(pixels, mask, grid)
        return rebuild(pixels, mask, branch.predict(branch.params, self._standardised(pixels), mask), branch.predicted)
