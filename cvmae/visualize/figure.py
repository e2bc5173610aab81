"""The six rows of the paper's Figure 1 over the frames of a clip, standing still and moving."""

import dataclasses

import numpy as np

from cvmae.models.patches import Grid
from cvmae.visualize.canvas import Bar, Cell, Row, as_bytes, compose, fitted_size, resized
from cvmae.visualize.clips import spread
from cvmae.visualize.heatmap import ATTENTION_COLORS, SEMANTIC_COLORS, color, overlay, scaled, upsample
from cvmae.visualize.reconstruction import Reconstruction

MARK = (0, 230, 255)  # of the patch whose attention is drawn
MARK_WIDTH = 2  # pixels


@dataclasses.dataclass(frozen=True)
class Strip:
    """One row of the figure: its name, frames uint8 [t, H, W, 3], what more is to be said, and what its colors mean."""

    name: str
    frames: np.ndarray
    detail: str = ""
    bar: Bar | None = None


@dataclasses.dataclass(frozen=True)
class Semantic:
    """What the last row shows.

    Attributes:
      name: where it is from, said in the figure.
      values: float32 [T, h, w], or colors [T, h, w, 3] in 0..1, a map for each frame of the clip.
    """

    name: str
    values: np.ndarray


def strips(
    found: Reconstruction,
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
    """The rows of the figure; without a decoder there is no reconstruction, and the map lies over the frames.

    Args:
      found: of one clip, numpy [t, H, W, 3].
      frames: which frames of the clip those are, int [t].
      attention: [T', h, w].
      semantic: of all T frames.
      grid: of the clip.
      ratio: the share that is hidden, 0..1.
      decoded: whether `found.rebuilt` is a decoder's.
      mark: (slot, row, column) of the patch that looks, to be marked.
      side: about how large frames are shown, pixels; 0 takes what suits a sheet.
    """
    size = fitted_size(grid.height, grid.width, *([side] if side else []))
    slots = frames // grid.tubelet
    clip, masked, rebuilt = (resized(as_bytes(a), size) for a in (found.clip, found.masked, found.rebuilt))
    heat = scaled(upsample(attention, size))[slots]
    hot = color(heat, ATTENTION_COLORS)
    base, over = (rebuilt, "the reconstruction") if decoded else (clip, "the frames")
    if mark is not None:
        for pictures in (clip, hot):
            _outline(pictures, slots, mark, grid)
    rows = [Strip("frames", clip), Strip("masked", masked, f"{100 * ratio:g} % hidden")]
    rows += [Strip("reconstruction", rebuilt)] if decoded else []
    bar = Bar(ATTENTION_COLORS, float(attention.min()), float(attention.max()))
    rows += [Strip("space-time attention", hot, "× an even share", bar)]
    rows += [Strip("overlay", overlay(base, heat, ATTENTION_COLORS), f"attention over {over}")]
    return [*rows, semantic_strip(semantic, frames, size)]


def semantic_strip(semantic: Semantic, frames: np.ndarray, size: tuple[int, int]) -> Strip:
    """The last row at these frames of the clip."""
    values, name = semantic.values, "semantic map"
    if values.ndim == 4:
        return Strip(name, color_maps(values, size)[frames], semantic.name)
    bar = Bar(SEMANTIC_COLORS, float(values.min()), float(values.max()))
    return Strip(name, color(scaled(upsample(values, size))[frames], SEMANTIC_COLORS), semantic.name, bar)


def color_maps(values, size: tuple[int, int]) -> np.ndarray:
    """Colors of patches [T, h, w, 3] in 0..1 as uint8 [T, H, W, 3]."""
    return as_bytes(np.moveaxis(upsample(np.moveaxis(values, -1, 1), size), 1, -1))


def still(rows: list[Strip], frames: np.ndarray, columns: int, title: str, note: str) -> np.ndarray:
    """The figure: a row a strip, at most `columns` (0: all) evenly spread frames; uint8 [H, W, 3]."""
    chosen = spread(len(frames), columns or len(frames))
    heads = tuple(f"frame {frames[i] + 1}" for i in chosen)
    lines = [Row([Cell(row.frames[i]) for i in chosen], f"{row.name}\n{row.detail}", row.bar) for row in rows]
    return compose(lines, title, heads, note)


def moving(rows: list[Strip], title: str, across: int = 3) -> np.ndarray:
    """The figure over time, strips beside each other, `across` in a line: uint8 [t, H, W, 3]."""
    lines = [rows[i : i + across] for i in range(0, len(rows), across)]
    pictures = []
    for t in range(len(rows[0].frames)):
        cells = [[Cell(row.frames[t], f"{row.name}\n{row.detail}".strip()) for row in line] for line in lines]
        pictures.append(compose([Row(line) for line in cells], title))
    return np.stack(pictures)


def _outline(pictures: np.ndarray, slots: np.ndarray, mark: tuple[int, int, int], grid: Grid) -> None:
    """Draws a box around a patch, in place, on the frames uint8 [t, H, W, 3] of its slot."""
    slot, row, column = mark
    height, width = pictures.shape[1] / grid.rows, pictures.shape[2] / grid.columns
    top, bottom, left, right = (round(x) for x in (row * height, (row + 1) * height, column * width, (column + 1) * width))
    inside = np.zeros(pictures.shape[1:3], bool)
    inside[top:bottom, left:right] = True
    inside[top + MARK_WIDTH : bottom - MARK_WIDTH, left + MARK_WIDTH : right - MARK_WIDTH] = False
    for number in np.flatnonzero(slots == slot):
        pictures[number][inside] = MARK
