"""Draws a label map over its picture, with a legend that stays readable from one word to many."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER = (255, 255, 255)
_INK = (34, 34, 34)
# More words than this and colours alone no longer tell them apart at a glance: regions get numbers
# too.
_WORDS_WITHOUT_NUMBERS = 8


class Entry(NamedTuple):
    """One line of a legend: a label of the map, its word, its share of the picture in percent."""

    label: int
    name: str
    share: float


class _Grid(NamedTuple):
    """Where the lines of a legend go: how many columns and rows, of cells how large (pixels)."""

    columns: int
    rows: int
    cell_width: int
    cell_height: int


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # late: its fonts are all that is needed of it

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def blend(
    mask: np.ndarray, colours: np.ndarray, image: np.ndarray | None, opacity: float
) -> np.ndarray:
    """The picture under its colours: (H, W) labels, (C, 3) uint8, (H, W, 3) uint8 or None -> (H, W,
    3) uint8.
    """
    painted = colours[mask].astype(np.float32)
    if image is not None:
        painted = opacity * painted + (1 - opacity) * image.astype(np.float32)
    return np.rint(painted).astype(np.uint8)


def draw_overlay(
    mask: np.ndarray,
    colours: np.ndarray,
    image: np.ndarray | None,
    opacity: float,
    entries: Sequence[Entry] | None,
) -> Image.Image:
    """An RGB picture of a label map.

    mask (H, W) labels; colours (C, 3) uint8; image (H, W, 3) uint8 or None; opacity in [0, 1].
    Without `entries` the result has the mask's size. With them, the picture is brought to a
    comfortable size (longer side 560 to 1280 pixels) and the legend stands below it, or beside it
    if the picture is upright.
    """
    if entries is None:
        return Image.fromarray(blend(mask, colours, image, opacity))
    numbered = len(entries) > _WORDS_WITHOUT_NUMBERS
    picture, shown = _enlarged(mask, colours, image, opacity, least=720 if numbered else 560)
    font_size = int(np.clip(max(picture.size) / 40, 15, 24))
    if numbered:
        _draw_numbers(picture, shown, entries, font_size)
    return _with_legend(picture, colours, entries, font_size, numbered)


def _enlarged(
    mask: np.ndarray, colours: np.ndarray, image: np.ndarray | None, opacity: float, least: int
) -> tuple[Image.Image, np.ndarray]:
    """The blend at a comfortable size with fine white lines between regions, and the label map at
    that size.
    """
    height, width = mask.shape
    longer = max(height, width)
    scale = float(np.clip(longer, least, 1280)) / longer
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(mask.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    if image is not None:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    painted = blend(shown, colours, image, opacity)
    if 0 < opacity:
        edge = np.zeros(shown.shape, dtype=bool)
        edge[:, 1:] |= shown[:, 1:] != shown[:, :-1]
        edge[1:] |= shown[1:] != shown[:-1]
        painted[edge] = (0.35 * painted[edge] + 0.65 * 255).astype(np.uint8)
    return Image.fromarray(painted), shown


def _draw_numbers(
    picture: Image.Image, shown: np.ndarray, entries: Sequence[Entry], font_size: int
) -> None:
    """Writes each entry's number where its word has the most room around it."""
    draw = ImageDraw.Draw(picture)
    font = _font(font_size)
    for number, entry in enumerate(entries, start=1):
        region = np.pad((shown == entry.label).astype(np.uint8), 1)
        room = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(np.argmax(room)), room.shape)
        if room[row, column] < 0.45 * font_size:
            continue  # too small to write on
        draw.text(
            (int(column), int(row)),
            str(number),
            font=font,
            fill=_INK,
            stroke_width=max(2, font_size // 7),
            stroke_fill=_PAPER,
            anchor="mm",
        )


def _line(entry: Entry, number: int | None, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The legend's text for an entry, its word shortened to fit `room` pixels."""
    share = "< 0.1" if 0 < entry.share < 0.05 else f"{entry.share:.1f}"
    before = "" if number is None else f"{number}  "
    name = entry.name
    text = f"{before}{name}  {share} %"
    while font.getlength(text) > room and len(name) > 1:
        name = name[:-1].rstrip()
        text = f"{before}{name}\u2026  {share} %"
    return text


def _layout(picture: Image.Image, lines: Sequence[str], font: ImageFont.FreeTypeFont) -> _Grid:
    """Cells wide enough for the longest line, in as many columns as the picture's width holds."""
    unit = int(font.size)
    widest = max((font.getlength(line) for line in lines), default=0)
    cell_width = int(widest + 3.2 * unit)
    cell_height = int(1.6 * unit)
    width, height = picture.size
    if height > 1.15 * width:  # upright: as many rows as the height holds
        rows = max(1, min(len(lines), (height - unit) // cell_height))
        return _Grid(-(-len(lines) // rows), rows, cell_width, cell_height)
    columns = max(1, min(len(lines), (width - unit) // cell_width))
    return _Grid(columns, -(-len(lines) // columns), cell_width, cell_height)


def _with_legend(
    picture: Image.Image,
    colours: np.ndarray,
    entries: Sequence[Entry],
    font_size: int,
    numbered: bool,
) -> Image.Image:
    """The picture on white paper with its legend below, or beside if it is upright."""
    font = _font(font_size)
    width, height = picture.size
    beside = height > 1.15 * width
    # A single long word must not cost all the others their columns: it is shortened to its share of
    # the width.
    room: float = (18 if len(entries) > 4 else 36) * font_size
    if not beside:
        room = min(room, (width - font_size) / (2 if len(entries) > 4 else 1) - 3.2 * font_size)
    room = max(room, 8 * font_size)
    lines = [
        _line(entry, number if numbered else None, font, room)
        for number, entry in enumerate(entries, start=1)
    ]
    grid = _layout(picture, lines, font)
    block = (
        grid.columns * grid.cell_width + font_size,
        grid.rows * grid.cell_height + font_size,
    )
    size = (
        (width + block[0], max(height, block[1]))
        if beside
        else (max(width, block[0]), height + block[1])
    )
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    left, top = (
        (width + font_size, font_size // 2) if beside else (font_size // 2, height + font_size // 2)
    )
    for place, (entry, line) in enumerate(zip(entries, lines, strict=True)):
        column, row = divmod(place, grid.rows)
        x, y = left + column * grid.cell_width, top + row * grid.cell_height
        middle = y + grid.cell_height // 2
        half = font_size // 2
        draw.rectangle(
            (x, middle - half, x + 2 * half, middle + half),
            fill=tuple(int(value) for value in colours[entry.label]),
            outline=(120, 120, 120),
        )
        draw.text((x + 1.6 * font_size, middle), line, font=font, fill=_INK, anchor="lm")
    return sheet
