"""Views of labeled clips for supervised training: RandAugment, crop, flip, normalization, erasing."""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, Num, UInt8

from cvmae.augment.color import normalize
from cvmae.augment.erasing import Erasing, erase
from cvmae.augment.geometry import Crop, random_crop
from cvmae.augment.randaugment import RandAugment, rand_augment, rand_augment_clips

CHUNK = 8  # clips whose frames are float32 at the same time


@dataclasses.dataclass(frozen=True)
class LabeledSpec:
    """Augmentation of labeled clips, in the order of VideoMAE's fine-tuning.

    Attributes:
      crop: the random resized crop; its `flip` is the probability of the flip.
      mean, std: of each channel, of pixels in 0..1.
      rand_augment: applied first, to the uint8 frames; None leaves it out.
      erasing: applied last, after normalization; None leaves it out.
      mirror: for each class the class of its mirrored clips, or -1 if there is no such class and its clips are not flipped
        (`cvmae.augment.mirror_labels`). None: a flip leaves every label as it is.
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
    """Flips a clip [T, H, W, C] left to right with a probability, and changes its label, int32, with it; -1, no label, stays."""
    flips = jax.random.uniform(key) < probability
    if mirror is not None:
        mirrored = jnp.where(label < 0, -1, jnp.asarray(mirror, jnp.int32)[label])
        flips &= (label < 0) | (mirrored >= 0)
        label = jnp.where(flips, mirrored, label)
    return jnp.where(flips, clip[:, :, ::-1], clip), label


def labeled_view(
    key: Key[Array, ""], video: UInt8[Array, "T H0 W0 3"], label: Int[Array, ""], spec: LabeledSpec
) -> tuple[Float[Array, "T H W 3"], Int[Array, ""]]:
    """Augments one clip, uint8 [T, H0, W0, 3], to one view, float32 [T, H, W, 3] normalized, and its label, int32."""
    augment_key, key = jax.random.split(key)
    if spec.rand_augment is not None:
        video = rand_augment(augment_key, video, spec.rand_augment)
    return _cut(key, video, label, spec)


def _cut(key, video, label, spec: LabeledSpec):
    """Crop, flip, normalization and erasing: all that follows RandAugment."""
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
    """Augments a batch, `repeats` adjacent views for each clip (repeated augmentation: several views of one decoded clip).

    RandAugment takes the clips one after the other, because only then the operations that were not drawn are not computed. The
    rest takes `CHUNK` clips at a time, so that a whole batch is never held in float32. If the rows are sharded over devices, wrap
    this in `jax.shard_map`: otherwise every device computes all rows, with the same results.

    Args:
      keys: one key per sample, [B].
      video: uint8 [B, T, H0, W0, 3].
      labels: int32 [B], -1 for no label.
      spec: the augmentation.
      repeats: number of views of each clip.

    Returns:
      Views, float32 [B·repeats, T, H, W, 3] normalized; labels, int32 [B·repeats]; and a key for each row, [B·repeats], for
      whatever is drawn later.
    """
    split = jax.vmap(lambda key: jax.random.split(key, (repeats, 2)))(keys).reshape(-1, 2)
    pairs = jax.vmap(jax.random.split)(split[:, 0])  # as `labeled_view` does
    video, labels = (jnp.repeat(array, repeats, axis=0) for array in (video, labels))
    if spec.rand_augment is not None:
        video = rand_augment_clips(pairs[:, 0], video, spec.rand_augment)
    rows = (pairs[:, 1], video, labels)
    views, labels = jax.lax.map(lambda row: _cut(row[0], row[1], row[2], spec), rows, batch_size=CHUNK)
    return views, labels, split[:, 1]


def labeled_clips(
    keys: Key[Array, " B"], video: UInt8[Array, "B NT H0 W0 3"], labels: Int[Array, " B"], spec: LabeledSpec, clips: int
) -> tuple[Float[Array, "B NT H W 3"], Int[Array, " B"], Key[Array, " B"]]:
    """Augments a batch of several clips of each video, each clip by itself as V-JEPA 2's probes do, but for the flip.

    The clips of a video are flipped together or not at all, since a flip may change its label. Rows and devices as in `labeled_views`.

    Args:
      keys: one key per sample, [B].
      video: uint8 [B, N·T, H0, W0, 3], the N clips of a video one after the other.
      labels: int32 [B], -1 for no label.
      spec: the augmentation.
      clips: N.

    Returns:
      Views, float32 [B, N·T, H, W, 3] normalized; labels, int32 [B]; and a key for each row, [B], for whatever is drawn later.
    """
    split = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    if spec.crop.flip:
        flips = jax.vmap(lambda key, frames, label: flip(key, frames, label, spec.crop.flip, spec.mirror))
        video, labels = flips(split[:, 0], video, labels)
    each = dataclasses.replace(spec, crop=dataclasses.replace(spec.crop, flip=0.0))
    clip_keys = jax.vmap(lambda key: jax.random.split(key, clips))(split[:, 1]).reshape(-1)
    flat = einops.rearrange(video, "b (n t) h w c -> (b n) t h w c", n=clips)
    views, _, _ = labeled_views(clip_keys, flat, jnp.repeat(labels, clips), each)
    return einops.rearrange(views, "(b n) t h w c -> b (n t) h w c", n=clips), labels, split[:, 2]
