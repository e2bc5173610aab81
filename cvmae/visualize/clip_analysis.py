"""Arrays to draw of one clip: attention and tokens of the video branch, attention of the image branch, reconstructions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cvmae import rng
from cvmae.augment import normalize
from cvmae.evaluation.features import FeatureSpec, encode_tokens
from cvmae.models import masking
from cvmae.models.patches import target_frames
from cvmae.visualize.attention import AttentionSpec, attention_map
from cvmae.visualize.reconstruction import Reconstruction, hide, rebuild
from cvmae.visualize.weights import Branch, Branches


@dataclasses.dataclass(frozen=True)
class ClipAnalysis:
    """Attention and tokens of an unmasked clip.

    Attributes:
      attention: float32 [T', h, w], of the video branch, relative to uniform.
      tokens: float32 [N, D], of the video branch.
      image: float32 [T, h, w], the image branch's attention on each frame separately; None without an image branch.
    """

    attention: np.ndarray
    tokens: np.ndarray
    image: np.ndarray | None


class ClipAnalyzer:
    """Analyzes clips float32 [T, H, W, 3] in 0..1, one at a time.

    Attributes:
      spec: the attention map of the video branch.
      image_spec: that of the image branch: for query=patch the patch at the same position, else the cls token if there is one,
        else the mean; None without an image branch.
    """

    def __init__(self, branches: Branches, config):
        """Takes the maps to draw from config.visualize.

        Raises:
          ValueError: an encoder lacks the layer, head or query.
        """
        c = config.visualize
        self.branches, self.mask, self.key = branches, c.mask, jax.random.key(config.seed)
        self.pixels = tuple(config.augment.mean), tuple(config.augment.std)
        self.spec = AttentionSpec(c.map, c.layer, c.head, c.query, tuple(c.position))
        self.spec.check(branches.video.encoder)
        self.image_spec: AttentionSpec | None = None
        if branches.image is not None:
            query = "patch" if c.query == "patch" else "cls" if branches.image.encoder.cls_token else "mean"
            self.image_spec = AttentionSpec(c.map, query=query, position=tuple(c.position))

    def __call__(self, clip) -> ClipAnalysis:
        """Computes attention and tokens of the unmasked clip."""
        video, image = self.branches.video, self.branches.image
        clip = normalize(clip, *self.pixels)
        arguments = video.params["encoder"], clip[None], video.encoder
        attention, tokens = _attend(*arguments, self.spec), _encode(*arguments, FeatureSpec(self.spec.layer, "all"))
        image_attention = None
        if image is not None:
            image_attention = np.asarray(_attend(image.params["encoder"], clip[:, None], image.encoder, self.image_spec)[:, 0])
        return ClipAnalysis(np.asarray(attention[0]), np.asarray(tokens[0]), image_attention)

    def rebuild(self, clip, number: int, ratio: float) -> Reconstruction:
        """Masks a clip at `ratio` and reconstructs it, numpy [t, H, W, 3]; the mask depends only on the seed and `number`."""
        keys = rng.stream(self.key, "mask_video", number)[None]
        mask = masking.draw(keys, self.branches.video.encoder.grid, self.mask, ratio)
        reconstruction = _rebuild(self.branches.video, jnp.asarray(clip)[None], mask, self.pixels)
        return jax.tree.map(lambda a: np.asarray(a[0]), reconstruction)

    @property
    def frames(self) -> np.ndarray:
        """The frames of a clip that the decoder predicts, which are the ones drawn, int [t]."""
        decoder = self.branches.video.decoder
        return target_frames(self.branches.video.encoder.grid.num_frames, decoder.target_frames if decoder else 0)


# All ClipAnalyzers share these compiled programs. Tokens are computed by a program of their own, so that the choice of the
# attention map does not change them in the last bit.
_attend = jax.jit(lambda params, clips, encoder, spec: attention_map(encoder, params, clips, spec), static_argnums=(2, 3))
_encode = jax.jit(lambda params, clips, encoder, spec: encode_tokens(encoder, params, clips, spec), static_argnums=(2, 3))


@functools.partial(jax.jit, static_argnums=3)
def _rebuild(branch: Branch, pixels, mask: masking.Mask, standard: tuple) -> Reconstruction:
    if branch.decoder is None:
        return hide(pixels, mask, branch.encoder.grid)
    return rebuild(pixels, mask, branch.predict(branch.params, normalize(pixels, *standard), mask), branch.predicted)
