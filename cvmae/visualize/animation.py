"""Pictures as files: PNG, and what moves as GIF and MP4."""

import fractions

import av
import numpy as np
from PIL import Image

from cvmae.files import replacing

FORMATS = ("png", "gif", "mp4")


def write_png(path, picture) -> None:
    """Writes a picture uint8 [H, W, 3]."""
    with replacing(path) as temporary:
        Image.fromarray(np.asarray(picture, np.uint8)).save(temporary, format="PNG")


def write_gif(path, frames, fps: float) -> None:
    """Writes frames uint8 [T, H, W, 3] as a GIF that repeats for ever; colors are the 256 that suit all frames best.

    A frame that is the same as the one before it is only shown longer, as GIFs do.
    """
    frames = np.asarray(frames, np.uint8)
    # One palette, from all frames side by side: with one a frame, still parts flicker. It covers every color there is, also rare
    # ones: a median cut leaves rings in the maps.
    some = frames[:, ::3, ::3]  # which take a tenth of the time and lie as well
    palette = Image.fromarray(np.ascontiguousarray(some.reshape(-1, *some.shape[2:]))).quantize(
        256, method=Image.Quantize.MAXCOVERAGE, kmeans=1
    )
    colors = np.array(palette.getpalette()).reshape(-1, 3)
    colors[colors.sum(1).argmax()] = 255  # paper stays white
    palette.putpalette(colors.ravel().tolist())
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, disposal=1
        )


def write_mp4(path, frames, fps: float) -> None:
    """Writes frames uint8 [T, H, W, 3] as H.264 that browsers play; a side of odd length loses its last line of pixels.

    Raises:
      av.FFmpegError: the encoder refused, or the file could not be written.
    """
    frames = np.asarray(frames, np.uint8)
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    options = {"crf": "18", "preset": "fast", "x264-params": "threads=1"}  # one thread: the same bytes every time
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))
