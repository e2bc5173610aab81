"""Sheets of images: rows of equal cells with row names, captions and color bars, composed pixel by pixel."""

import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvmae.visualize.heatmap import color

INK, PALE, BACKGROUND = (25, 25, 30), (105, 105, 115), (255, 255, 255)
MARGIN, GAP, BORDER = 14, 4, 4  # pixels
SIDE = 128  # approximate side of a cell, pixels
NAME, TITLE, SMALL = 15, 19, 13  # font sizes, pixels
LINE = SMALL + 4  # line height of small text
NAME_WIDTH = 190  # maximum width of row names
BAR = 10  # width of a color bar, pixels


@dataclasses.dataclass(frozen=True)
class Cell:
    """An image uint8 [h, w, 3], a caption of one or two lines above it, and the color of its border."""

    image: np.ndarray
    caption: str = ""
    border: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Bar:
    """A color bar: the name of a matplotlib colormap, and the values at its ends."""

    colors: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of one size, the name to the left of them, and the color bar to the right."""

    cells: list[Cell]
    name: str = ""
    bar: Bar | None = None


def fitted_size(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Returns the (height, width) at which to show an image: about side² pixels; small images grow by an integer factor."""
    scale = side / (height * width) ** 0.5
    if scale >= 1.5:
        return height * round(scale), width * round(scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(frames, size: tuple[int, int]) -> np.ndarray:
    """Resizes frames uint8 [..., H, W, 3] to `size` = (height, width): nearest neighbor to enlarge, Lanczos to shrink."""
    frames = np.asarray(frames, np.uint8)
    resampling = Image.Resampling.NEAREST if size[0] >= 1.5 * frames.shape[-3] else Image.Resampling.LANCZOS
    flat = frames.reshape(-1, *frames.shape[-3:])
    images = [np.asarray(Image.fromarray(frame).resize((size[1], size[0]), resampling)) for frame in flat]
    return np.stack(images).reshape(*frames.shape[:-3], *size, 3)


def as_bytes(pixels) -> np.ndarray:
    """Converts pixels in 0..1 to uint8."""
    return np.round(np.clip(np.asarray(pixels, np.float32), 0, 1) * 255).astype(np.uint8)


def compose(rows: list[Row], title: str = "", heads: tuple[str, ...] = (), note: str = "") -> np.ndarray:
    """Composes rows of cells into one image, uint8 [H, W, 3]; H and W are even.

    Args:
      rows: rows of cells, all of one size; a row may have fewer cells than the others.
      title: a line at the top, truncated if it is too long.
      heads: a column head for each column.
      note: small text at the bottom, wrapped.
    """
    layout = _Layout(rows, title, heads, note)
    sheet = Image.new("RGB", (layout.width + layout.width % 2, layout.height + layout.height % 2), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), shortened(title, layout.inner, TITLE), INK, font(TITLE))
    for number, head in enumerate(heads):
        x = layout.left + number * (layout.cell[1] + GAP) + layout.cell[1] / 2
        draw.text((x, layout.top - 5), shortened(head, layout.cell[1], SMALL), PALE, font(SMALL), anchor="md")
    for number, row in enumerate(rows):
        _draw_row(sheet, draw, row, layout, layout.top + number * layout.pitch)
    for number, line in enumerate(layout.note):
        draw.text((MARGIN, layout.bottom + GAP + 4 + number * LINE), line, PALE, font(SMALL))
    return np.asarray(sheet)


class _Layout:
    """Positions and sizes of the parts of a sheet, in pixels."""

    def __init__(self, rows, title, heads, note):
        self.cell = rows[0].cells[0].image.shape[:2]
        names = [wrapped(row.name, NAME_WIDTH, NAME) for row in rows if row.name]
        self.names = max((round(width_of(line, NAME)) for lines in names for line in lines), default=0)
        self.left = MARGIN + (self.names + 10 if names else 0)
        bars = [f"{value:.2g}" for row in rows if row.bar for value in (row.bar.low, row.bar.high)]
        self.bar = 6 + BAR + 5 + max((round(width_of(text, SMALL)) for text in bars), default=0) if bars else 0
        columns = max(len(row.cells) for row in rows)
        right = self.left + columns * (self.cell[1] + GAP) - GAP + self.bar
        self.width, self.inner = right + MARGIN, right - MARGIN
        lines = max((cell.caption.count("\n") + 1 for row in rows for cell in row.cells if cell.caption), default=0)
        self.caption = lines * LINE + 5 if lines else 0
        self.top = MARGIN + (TITLE + 10 if title else 0) + (SMALL + 5 if heads else 0)
        self.pitch = self.caption + self.cell[0] + GAP
        self.bottom = self.top + len(rows) * self.pitch - GAP
        self.note = wrapped(note, self.inner, SMALL)
        self.height = self.bottom + (GAP + 4 + len(self.note) * LINE if note else 0) + MARGIN


def _draw_row(sheet, draw, row: Row, layout: _Layout, top: int) -> None:
    height, width = layout.cell
    middle = top + layout.caption + height / 2
    lines = wrapped(row.name, NAME_WIDTH, NAME)
    for number, line in enumerate(lines):
        y = middle + (number - (len(lines) - 1) / 2) * (NAME + 4)
        draw.text((layout.left - 10, y), line, INK if not number else PALE, font(NAME), anchor="rm")
    for number, cell in enumerate(row.cells):
        x, y = layout.left + number * (width + GAP), top + layout.caption
        sheet.paste(Image.fromarray(np.asarray(cell.image, np.uint8)), (x, y))
        for line_number, line in enumerate(cell.caption.split("\n")):
            ink = PALE if line_number else INK
            draw.text((x, top + 3 + line_number * LINE), shortened(line, width, SMALL), ink, font(SMALL), anchor="la")
        if cell.border:
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=cell.border, width=BORDER)
    if row.bar:
        x = layout.left + len(row.cells) * (width + GAP) - GAP + 6
        strip = color(np.linspace(1, 0, height)[:, None].repeat(BAR, 1), row.bar.colors)
        sheet.paste(Image.fromarray(strip), (x, top + layout.caption))
        for value, y, anchor in ((row.bar.high, top + layout.caption, "la"), (row.bar.low, top + layout.caption + height, "ld")):
            draw.text((x + BAR + 5, y), f"{value:.2g}", PALE, font(SMALL), anchor=anchor)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font that matplotlib ships, so that images are the same on every machine."""
    import matplotlib  # see `heatmap.color`

    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def width_of(text: str, size: int) -> float:
    """Returns the width of a line of text, in pixels."""
    return font(size).getlength(text)


def shortened(text: str, width: float, size: int) -> str:
    """Truncates a line, with an ellipsis, to at most `width` pixels."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Wraps text at spaces into lines of at most `width` pixels; a word that is too long is truncated."""
    lines = []
    for part in filter(None, text.split("\n")):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and width_of(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(shortened(line, width, size))
    return lines
