"""The six rows of the paper's Figure 1 over the frames of a clip, as a still image and as an animation."""

import dataclasses

import numpy as np

from cvmae.models.patches import Grid
from cvmae.visualize.canvas import SIDE, Bar, Cell, Row, as_bytes, compose, fitted_size, resized
from cvmae.visualize.clips import spread
from cvmae.visualize.heatmap import ATTENTION_COLORS, SEMANTIC_COLORS, color, overlay, scaled, upsample
from cvmae.visualize.reconstruction import Reconstruction

MARK = (0, 230, 255)  # color of the box around the query patch
MARK_WIDTH = 2  # pixels


@dataclasses.dataclass(frozen=True)
class Strip:
    """A row of the figure: its name, frames uint8 [t, H, W, 3], a second line below the name, and a color bar."""

    name: str
    frames: np.ndarray
    detail: str = ""
    bar: Bar | None = None


@dataclasses.dataclass(frozen=True)
class Semantic:
    """The semantic map of the last row.

    Attributes:
      name: its source, shown in the figure.
      values: float32 [T, h, w], or colors [T, h, w, 3] in 0..1; a map for each frame of the clip.
    """

    name: str
    values: np.ndarray


def strips(
    reconstruction: Reconstruction,
    frames: np.ndarray,
    attention: np.ndarray,
    semantic: Semantic,
    grid: Grid,
    *,
    ratio: float,
    decoded: bool,
    mark: tuple[int, int, int] | None = None,
    side: int = 0,
) -> list[Strip]:
    """Makes the rows of the figure; without a decoder there is no reconstruction, and the attention is laid over the frames.

    Args:
      reconstruction: of one clip, numpy [t, H, W, 3].
      frames: indices of those frames in the clip, int [t].
      attention: [T', h, w].
      semantic: the semantic map of all T frames.
      grid: the grid of the clip.
      ratio: the mask ratio, 0..1.
      decoded: True if `reconstruction.rebuilt` is the output of a decoder.
      mark: (time, row, column) of the query patch, to draw a box around it.
      side: approximate side of the frames, pixels; 0 takes the default of sheets.
    """
    size = fitted_size(grid.height, grid.width, side or SIDE)
    times = frames // grid.tubelet
    clip, masked, rebuilt = (
        resized(as_bytes(a), size) for a in (reconstruction.clip, reconstruction.masked, reconstruction.rebuilt)
    )
    heat = scaled(upsample(attention, size))[times]
    hot = color(heat, ATTENTION_COLORS)
    base, over = (rebuilt, "the reconstruction") if decoded else (clip, "the frames")
    if mark is not None:
        for pictures in (clip, hot):
            _outline(pictures, times, mark, grid)
    rows = [Strip("frames", clip), Strip("masked", masked, f"{100 * ratio:g} % masked")]
    rows += [Strip("reconstruction", rebuilt)] if decoded else []
    bar = Bar(ATTENTION_COLORS, float(attention.min()), float(attention.max()))
    rows += [Strip("space-time attention", hot, "relative to uniform", bar)]
    rows += [Strip("overlay", overlay(base, heat, ATTENTION_COLORS), f"attention over {over}")]
    return [*rows, semantic_strip(semantic, frames, size)]


def semantic_strip(semantic: Semantic, frames: np.ndarray, size: tuple[int, int]) -> Strip:
    """Makes the last row, at `frames` of the clip."""
    values, name = semantic.values, "semantic map"
    if values.ndim == 4:
        return Strip(name, color_maps(values, size)[frames], semantic.name)
    bar = Bar(SEMANTIC_COLORS, float(values.min()), float(values.max()))
    return Strip(name, color(scaled(upsample(values, size))[frames], SEMANTIC_COLORS), semantic.name, bar)


def color_maps(values, size: tuple[int, int]) -> np.ndarray:
    """Upsamples colors of patches [T, h, w, 3] in 0..1 to uint8 [T, H, W, 3]."""
    return as_bytes(np.moveaxis(upsample(np.moveaxis(values, -1, 1), size), 1, -1))


def still(rows: list[Strip], frames: np.ndarray, columns: int, title: str, note: str) -> np.ndarray:
    """Composes the still figure, uint8 [H, W, 3]: one row per strip, at most `columns` (0: all) evenly spaced frames."""
    chosen = spread(len(frames), columns or len(frames))
    heads = tuple(f"frame {frames[i] + 1}" for i in chosen)
    lines = [Row([Cell(row.frames[i]) for i in chosen], f"{row.name}\n{row.detail}", row.bar) for row in rows]
    return compose(lines, title, heads, note)


def moving(rows: list[Strip], title: str, across: int = 3) -> np.ndarray:
    """Composes the animated figure, uint8 [t, H, W, 3]: the strips side by side, `across` of them in a line."""
    lines = [rows[i : i + across] for i in range(0, len(rows), across)]
    pictures = []
    for t in range(len(rows[0].frames)):
        cells = [[Cell(row.frames[t], f"{row.name}\n{row.detail}".strip()) for row in line] for line in lines]
        pictures.append(compose([Row(line) for line in cells], title))
    return np.stack(pictures)


def _outline(pictures: np.ndarray, times: np.ndarray, mark: tuple[int, int, int], grid: Grid) -> None:
    """Draws a box around a patch, in place, on those of the frames uint8 [t, H, W, 3] whose `times` is the patch's."""
    time, row, column = mark
    height, width = pictures.shape[1] / grid.rows, pictures.shape[2] / grid.columns
    top, bottom, left, right = (round(x) for x in (row * height, (row + 1) * height, column * width, (column + 1) * width))
    inside = np.zeros(pictures.shape[1:3], bool)
    inside[top:bottom, left:right] = True
    inside[top + MARK_WIDTH : bottom - MARK_WIDTH, left + MARK_WIDTH : right - MARK_WIDTH] = False
    for number in np.flatnonzero(times == time):
        pictures[number][inside] = MARK
