"""Sheets of pictures: rows of equal cells with names, captions and color bars, put together pixel by pixel."""

import dataclasses
import functools
import pathlib

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvmae.visualize.heatmap import color

INK, PALE, PAPER = (25, 25, 30), (105, 105, 115), (255, 255, 255)
MARGIN, GAP, BORDER = 14, 4, 4  # pixels
SIDE = 128  # about the side of a cell, pixels
NAME, TITLE, SMALL = 15, 19, 13  # heights of the letters, pixels
LINE = SMALL + 4  # from one line of small text to the next
NAME_WIDTH = 190  # of the names of rows, at the most
BAR = 10  # width of a color bar, pixels


@dataclasses.dataclass(frozen=True)
class Cell:
    """A picture uint8 [h, w, 3], what stands above it in one line or two, and the color of a frame around it."""

    image: np.ndarray
    caption: str = ""
    border: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Bar:
    """Which values the colors of a row stand for: a color map of matplotlib, and its ends."""

    colors: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of one size, the name that stands left of them, and the bar that stands right of them."""

    cells: list[Cell]
    name: str = ""
    bar: Bar | None = None


def fitted_size(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """The (height, width) to show a picture at: about side² pixels; small pictures become whole multiples of theirs."""
    scale = side / (height * width) ** 0.5
    if scale >= 1.5:
        return height * round(scale), width * round(scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(frames, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [..., H, W, 3] at `size` = (height, width): with sharp pixels where they grow, smoothed where they shrink."""
    frames = np.asarray(frames, np.uint8)
    how = Image.Resampling.NEAREST if size[0] >= 1.5 * frames.shape[-3] else Image.Resampling.LANCZOS
    flat = frames.reshape(-1, *frames.shape[-3:])
    whole = [np.asarray(Image.fromarray(frame).resize(size[::-1], how)) for frame in flat]
    return np.stack(whole).reshape(*frames.shape[:-3], *size, 3)


def as_bytes(pixels) -> np.ndarray:
    """Pixels in 0..1 as uint8."""
    return np.round(np.clip(np.asarray(pixels, np.float32), 0, 1) * 255).astype(np.uint8)


def compose(rows: list[Row], title: str = "", heads: tuple[str, ...] = (), note: str = "") -> np.ndarray:
    """One picture of rows of cells, uint8 [H, W, 3], H and W even.

    Args:
      rows: their cells are all of one size; a row may be shorter than the others.
      title: a line above everything, cut where it is too long.
      heads: a word above each column.
      note: small text below everything, in as many lines as it needs.
    """
    layout = _Layout(rows, title, heads, note)
    sheet = Image.new("RGB", (layout.width + layout.width % 2, layout.height + layout.height % 2), PAPER)
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
    """Where everything of a sheet lies, in pixels."""

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
        for place, line in enumerate(cell.caption.split("\n")):
            ink = PALE if place else INK
            draw.text((x, top + 3 + place * LINE), shortened(line, width, SMALL), ink, font(SMALL), anchor="la")
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
    """The letters that matplotlib ships, so that a picture is the same on every machine."""
    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def width_of(text: str, size: int) -> float:
    """Of a line of text, pixels."""
    return font(size).getlength(text)


def shortened(text: str, width: float, size: int) -> str:
    """A line of at most `width` pixels; what is too long loses its end."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Lines of at most `width` pixels, cut between words; a word that is too long is shortened."""
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
