"""Embeddings of videos of any length, in two calls: `load_encoder`, then `embed`."""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import numpy as np

from cvmae.data.clips import ClipSpec, fit_frames
from cvmae.data.decode import read_frames, read_table
from cvmae.data.windows import plan_windows
from cvmae.interop.hints import ModelHints
from cvmae.interop.load import read_to_run
from cvmae.interop.preprocessing import Preprocessing, preprocessing_of, unknown_normalization
from cvmae.interop.pretrained import FrameSampling
from cvmae.models.backbone import Backbone
from cvmae.parallel.processes import log_once

STRIDE = 4  # where the weights do not record it: VideoMAE's and mae_st's on Kinetics


@dataclasses.dataclass(frozen=True, eq=False)
class VideoEncoder:
    """A pre-trained encoder with all that it needs to embed videos.

    Attributes:
      module: the Flax module.
      params: its parameters, numpy arrays.
      preprocessing: frames uint8 [B, T, H0, W0, 3] to normalized clips float32 [B, T, H, W, 3].
      stride: frames from one frame of a clip to the next.
      fps: if above 0, the stride counts frames at this rate, independent of the file's frame rate.
      square_pixels: True applies the aspect ratio of a file's pixels.
    """

    module: Backbone
    params: dict = dataclasses.field(repr=False)
    preprocessing: Preprocessing
    stride: int = STRIDE
    fps: float = 0.0
    square_pixels: bool = True

    @property
    def num_frames(self) -> int:
        """T, the frames of a clip."""
        return self.preprocessing.num_frames

    @functools.cached_property
    def _apply(self):
        return jax.jit(lambda params, clips: self.module.apply({"params": params}, clips).pooled)

    def __call__(self, clips) -> np.ndarray:
        """Returns the mean over tokens, float32 [B, D], of clips uint8 [B, T, H0, W0, 3], RGB, of any size; jitted.

        Raises: ValueError, see `Preprocessing`.
        """
        if self.preprocessing.mean is None or self.preprocessing.std is None:
            other = "dataclasses.replace(encoder.preprocessing, mean=..., std=...)"
            raise ValueError(unknown_normalization(f"dataclasses.replace(encoder, preprocessing={other})"))
        return np.asarray(self._apply(self.params, self.preprocessing(clips)))


def load_encoder(
    path: str | os.PathLike, *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
) -> VideoEncoder:
    """Loads an encoder from a workdir, a weights file or folder, or a hub id `owner/name`.

    Workdirs and exports of them record how the frames of their clips were sampled. For other weights, and older exports, a
    line on stderr says what is assumed; `dataclasses.replace` changes it.

    Args:
      path: see `cvmae.load`.
      branch: `video` or `image`, of a workdir.
      step: of a workdir's checkpoint; None takes the newest complete one.
      hints: settings that a file may not record, such as the number of heads; and the size of the clips, see `cvmae.load`.

    Raises:
      FileNotFoundError, WeightsError, WorkdirError, ValueError, TypeError: see `cvmae.load`.
    """
    pretrained = read_to_run(path, branch=branch, step=step, hints=hints)
    sampling = pretrained.sampling
    if sampling is None:
        sampling = FrameSampling(STRIDE)
        log_once(
            f"note: {pretrained.name} does not record how frames were sampled: {sampling} is assumed, which "
            "dataclasses.replace(encoder, stride=...) changes"
        )
    return VideoEncoder(
        pretrained.encoder, pretrained.params["encoder"], preprocessing_of(pretrained), **dataclasses.asdict(sampling)
    )


def embed(
    video: str | os.PathLike | bytes | np.ndarray,
    encoder: VideoEncoder | str | os.PathLike,
    *,
    per_window: bool = False,
    window_stride: int = 0,
    batch_size: int = 8,
) -> np.ndarray:
    """Embeds a video as one vector, or as one vector per window.

    The video is split into windows with the number of frames and the stride that the encoder was trained with. The last window is
    shifted to end with the video; a video shorter than a window repeats its last frame.

    Args:
      video: a path, the bytes of an encoded file, or RGB frames uint8 [n, H, W, 3].
      encoder: from `load_encoder`, or its argument `path`.
      per_window: True returns float32 [windows, D] in temporal order; False their mean, float32 [D].
      window_stride: clip frames from the start of one window to the start of the next; 0: windows do not overlap.
      batch_size: windows per batch; only one batch is in memory at a time.

    Raises:
      DecodeError: the file cannot be read. ValueError: frames of another shape or dtype, or see `Preprocessing`.
      TypeError: an argument is of another type.
    """
    if not isinstance(encoder, VideoEncoder | str | os.PathLike):
        raise TypeError(f"encoder is of type {type(encoder).__name__}: give what cvmae.load_encoder returns, or its argument")
    encoder = encoder if isinstance(encoder, VideoEncoder) else load_encoder(encoder)
    times, read = _open_video(video, encoder.square_pixels)
    windows = plan_windows(_clip_spec(encoder, timed=not isinstance(video, np.ndarray)), times, window_stride)
    batches = []
    for start in range(0, len(windows), batch_size):
        numbers = windows.frames[start : start + batch_size]
        unique, positions = np.unique(numbers, return_inverse=True)
        batches.append(encoder(read(unique)[positions.reshape(numbers.shape)]))
    vectors = np.concatenate(batches)
    return vectors if per_window else vectors.mean(0)


def _open_video(
    video: str | os.PathLike | bytes | np.ndarray, square: bool
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Returns the times of a video's frames, and a function that reads frames by their numbers.

    With `square`, frames have square pixels. Raises: see `embed`.
    """
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not len(video):
            raise ValueError(f"frames are {video.dtype} {list(video.shape)}; expected uint8 [n, H, W, 3]")
        return np.arange(len(video), dtype=np.float64), lambda numbers: video[numbers]
    if not isinstance(video, str | os.PathLike | bytes):
        raise TypeError(
            f"video is of type {type(video).__name__}: give a path, the bytes of a file, or frames uint8 [n, H, W, 3]"
        )
    source = video if isinstance(video, bytes) else os.fspath(video)
    table = read_table(source)
    aspect = table.pixel_aspect if square else 1.0
    return table.times, lambda numbers: _with_square_pixels(read_frames(source, numbers, table=table), aspect)


def _with_square_pixels(frames: np.ndarray, aspect: float) -> np.ndarray:
    """Enlarges the side that pixels are longer along; `aspect` is their width over their height."""
    height, width = frames.shape[1:3]
    return fit_frames(frames, round(height / min(1, aspect)), round(width * max(1, aspect)), "stretch")


def _clip_spec(encoder: VideoEncoder, timed: bool) -> ClipSpec:
    """Returns the spec of the encoder's clips; for frames without times (`timed` False) its fps is ignored."""
    return ClipSpec(
        num_frames=encoder.num_frames,
        stride=encoder.stride,
        fps=encoder.fps if timed else 0.0,
        height=encoder.preprocessing.height,
        width=encoder.preprocessing.width,
        fit="crop",
        sampling="middle",
        num_sampled=0,
        frame_sampling="middle",
    )
