"""Writers of images (PNG) and animations (GIF, MP4)."""

import fractions

import av
import numpy as np
from PIL import Image

from cvmae.files import replacing

FORMATS = ("png", "gif", "mp4")


def write_png(path, picture) -> None:
    """Writes an image uint8 [H, W, 3] as PNG."""
    with replacing(path) as temporary:
        Image.fromarray(np.asarray(picture, np.uint8)).save(temporary, format="PNG")


def write_gif(path, frames, fps: float) -> None:
    """Writes frames uint8 [T, H, W, 3] as a GIF that loops forever; all frames share one palette of 256 colors.

    A frame equal to the one before it is stored as a longer duration of that frame.
    """
    frames = np.asarray(frames, np.uint8)
    # With a palette per frame, parts that do not move flicker. The palette covers rare colors too: a median cut leaves rings in
    # the heat maps.
    sample = frames[:, ::3, ::3]  # takes a tenth of the time and gives an equally good palette
    palette = Image.fromarray(np.ascontiguousarray(sample.reshape(-1, *sample.shape[2:]))).quantize(
        256, method=Image.Quantize.MAXCOVERAGE, kmeans=1
    )
    colors = np.array(palette.getpalette()).reshape(-1, 3)
    colors[colors.sum(1).argmax()] = 255  # the background stays white
    palette.putpalette(colors.ravel().tolist())
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, disposal=1
        )


def write_mp4(path, frames, fps: float) -> None:
    """Writes frames uint8 [T, H, W, 3] as H.264 that browsers play; a side of odd length is cropped by one pixel.

    Raises:
      av.FFmpegError: the encoder rejected its settings, or the file could not be written.
    """
    frames = np.asarray(frames, np.uint8)
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    options = {"crf": "18", "preset": "fast", "x264-params": "threads=1"}  # one thread: the output is deterministic
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))
