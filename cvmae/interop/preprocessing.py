"""Turns decoded frames into the clips of a pre-trained encoder (resize, center crop, normalize), or fits an encoder to its clips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.interop.pretrained import Normalization, Pretrained


def unknown_normalization(remedy: str) -> str:
    """Returns the message of weights that do not record their normalization; remedy: what to replace, by mean=..., std=..."""
    values = "with the values of their training, such as ImageNet's (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)"
    beside = "or put the preprocessor_config.json of a transformers model beside its weights"
    return f"these weights do not record their normalization: take {remedy} {values}, {beside}"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Makes clips for one encoder; the numbers are those of transformers' VideoMAEImageProcessor.

    That processor works on integer gray levels and rounds to them after each axis of a resize, while this keeps fractions: values
    differ by less than a level (1/255 in 0..1) after a resize and by float32's rounding without one.

    Attributes:
      num_frames: frames T of a clip.
      height: height H of the crop, in pixels.
      width: width W of the crop, in pixels.
      mean: mean of each channel (R, G, B), of pixels in 0..1; None if the weights do not record it.
      std: their standard deviation, likewise.
    """

    num_frames: int
    height: int
    width: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, video) -> jax.Array:
        """Returns normalized clips, float32 [B, T, H, W, 3].

        Args:
          video: uint8 [T, H0, W0, 3] or [B, T, H0, W0, 3], RGB, of any size. It is resized (bilinear, antialiased) so that it
            just covers the crop, its aspect kept, and the center is cut out.

        Raises:
          ValueError: it is not of that shape or dtype, has another number of frames, or the weights record no `mean` and `std`.
        """
        if self.mean is None or self.std is None:
            raise ValueError(unknown_normalization("dataclasses.replace(preprocessing, mean=..., std=...)"))
        video = self._checked(video)
        height, width = self._resized(*video.shape[2:4])
        pixels = video.astype(jnp.float32)
        if (height, width) != video.shape[2:4]:
            shape = (*video.shape[:2], height, width, 3)
            pixels = jax.image.resize(pixels, shape, "bilinear", antialias=True)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        pixels = pixels[:, :, top : top + self.height, left : left + self.width]
        return (pixels / 255 - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)

    def _checked(self, video):
        """Returns the clips [B, T, H0, W0, 3]. Raises: ValueError, see `__call__`."""
        video = video if isinstance(video, jax.Array) else np.asarray(video)
        if video.dtype != np.uint8:
            raise ValueError(f"frames are {video.dtype}; expected uint8, RGB in 0..255")
        if video.ndim not in (4, 5) or video.shape[-1] != 3 or 0 in video.shape[-3:]:
            raise ValueError(f"frames are {list(video.shape)}; expected [T, H, W, 3] or [B, T, H, W, 3]")
        if video.shape[-4] != self.num_frames:
            raise ValueError(f"a clip has {video.shape[-4]} frames; this encoder takes exactly {self.num_frames}: sample as many")
        return jnp.asarray(video if video.ndim == 5 else video[None])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size of a frame that just covers the crop; the longer side is rounded down, as transformers does."""
        if height * self.width <= width * self.height:
            return self.height, self.height * width // height
        return self.width * height // width, self.width


def preprocessing_of(pretrained: Pretrained) -> Preprocessing:
    """Returns the preprocessing of these weights' clips; `mean` and `std` are None if the normalization is unknown."""
    grid, normalization = pretrained.encoder.grid, pretrained.normalization
    return Preprocessing(grid.num_frames, grid.height, grid.width, normalization.get("mean"), normalization.get("std"))


def normalizations_differ(one: Normalization, other: Normalization) -> bool:
    """Returns True if two normalizations differ by more than rounding."""
    return any(not np.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in ("mean", "std"))


def fold_normalization(embed: dict, source: Normalization, target: Normalization) -> dict:
    """Rewrites a patch embedding so that frames normalized by `target` give what those normalized by `source` gave.

    Exact but for rounding: (p - mean) / std is an affine map of every pixel, and so is the embedding.

    Args:
      embed: `kernel` [(t p p C), D] and `bias` [D].
      source: the normalization that the embedding was trained with, of pixels in 0..1.
      target: the normalization of the frames that it will be applied to.
    """
    mean, std = (np.asarray(source[name], np.float64) for name in ("mean", "std"))
    new_mean, new_std = (np.asarray(target[name], np.float64) for name in ("mean", "std"))
    by_channel = embed["kernel"].astype(np.float64).reshape(-1, len(mean), embed["kernel"].shape[-1])
    kernel = by_channel * (new_std / std)[:, None]
    bias = embed["bias"] + np.einsum("xcd,c->d", by_channel, (new_mean - mean) / std)
    return {
        "kernel": kernel.reshape(embed["kernel"].shape).astype(embed["kernel"].dtype),
        "bias": bias.astype(embed["bias"].dtype),
    }
