"""Views of labeled clips for supervised training: RandAugment, crop, flip, normalization, erasing."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, Num, UInt8

from cvmae.augment.color import normalize
from cvmae.augment.erasing import Erasing, erase
from cvmae.augment.geometry import Crop, random_crop
from cvmae.augment.randaugment import RandAugment, rand_augment, rand_augment_clips

CHUNK = 8  # clips whose frames are float32 at a time


@dataclasses.dataclass(frozen=True)
class LabeledSpec:
    """How a clip is augmented where its label matters, in the order of VideoMAE's fine-tuning.

    Attributes:
      rand_augment: on the uint8 frames; None: not at all.
      crop: the random resized crop; its `flip` is the probability of the flip.
      mirror: one entry a class: that of the mirrored clip, or -1 where there is none and a clip is not flipped
        (`cvmae.augment.mirror_labels`). None: a flip leaves every label as it is.
      mean, std: of a channel, of pixels in 0..1.
      erasing: after normalization; None: not at all.
    """

    crop: Crop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rand_augment: RandAugment | None = None
    erasing: Erasing | None = None
    mirror: tuple[int, ...] | None = None


def flip(
    key: Key[Array, ""], clip: Num[Array, "T H W C"], label: Int[Array, ""], probability: float, mirror: tuple[int, ...] | None
) -> tuple[Num[Array, "T H W C"], Int[Array, ""]]:
    """Flips a clip [T, H, W, C] left to right, and its label int32 with it; a clip without a label (-1) keeps none."""
    flips = jax.random.uniform(key) < probability
    if mirror is not None:
        mirrored = jnp.where(label < 0, -1, jnp.asarray(mirror, jnp.int32)[label])
        flips &= (label < 0) | (mirrored >= 0)
        label = jnp.where(flips, mirrored, label)
    return jnp.where(flips, clip[:, :, ::-1], clip), label


def labeled_view(
    key: Key[Array, ""], video: UInt8[Array, "T H0 W0 3"], label: Int[Array, ""], spec: LabeledSpec
) -> tuple[Float[Array, "T H W 3"], Int[Array, ""]]:
    """One view of one clip, uint8 [T, H0, W0, 3]: float32 [T, H, W, 3] normalized, and its label int32."""
    augment_key, key = jax.random.split(key)
    if spec.rand_augment is not None:
        video = rand_augment(augment_key, video, spec.rand_augment)
    return _cut(key, video, label, spec)


def _cut(key, video, label, spec: LabeledSpec):
    """What comes after RandAugment."""
    crop_key, flip_key, erase_key = jax.random.split(key, 3)
    clip = random_crop(crop_key, video.astype(jnp.float32) / 255, dataclasses.replace(spec.crop, flip=0.0))
    if spec.crop.flip:
        clip, label = flip(flip_key, clip, label, spec.crop.flip, spec.mirror)
    clip = normalize(clip, spec.mean, spec.std)
    if spec.erasing is not None:
        clip = erase(erase_key, clip, spec.erasing)
    return clip, label


def labeled_views(
    keys: Key[Array, " B"], video: UInt8[Array, "B T H0 W0 3"], labels: Int[Array, " B"], spec: LabeledSpec, repeats: int = 1
) -> tuple[Float[Array, "B*{repeats} T H W 3"], Int[Array, " B*{repeats}"], Key[Array, " B*{repeats}"]]:
    """Views of a batch, `repeats` of each clip next to each other (repeated augmentation: one decode, several clips).

    RandAugment takes the clips one after the other, for it then computes what was drawn and nothing else; the rest takes
    `CHUNK` at a time, so that float32 frames of a whole batch are never held. Rows that lie on several devices must be spread by
    `jax.shard_map` around this, else every device makes them all; the results are the same.

    Args:
      keys: one a sample, [B].
      video: uint8 [B, T, H0, W0, 3].
      labels: int32 [B], -1 for none.
      spec: how.
      repeats: views of each clip.

    Returns:
      float32 [B·repeats, T, H, W, 3] normalized, labels int32 [B·repeats], and a key for each row [B·repeats] for whatever is
      drawn later.
    """
    split = jax.vmap(lambda key: jax.random.split(key, (repeats, 2)))(keys).reshape(-1, 2)
    pairs = jax.vmap(jax.random.split)(split[:, 0])  # as `labeled_view` does
    video, labels = (jnp.repeat(array, repeats, axis=0) for array in (video, labels))
    if spec.rand_augment is not None:
        video = rand_augment_clips(pairs[:, 0], video, spec.rand_augment)
    rows = (pairs[:, 1], video, labels)
    views, labels = jax.lax.map(lambda row: _cut(*row, spec), rows, batch_size=CHUNK)
    return views, labels, split[:, 1]
