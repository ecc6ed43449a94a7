"""Pictures side by side in one PNG, with words above them: before and after, slider strips, grids."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND, INK, FAINT = "white", "black", "#555555"
GAP = 8

SYSTEM_FONTS = ("meiryo.ttc", "YuGothM.ttc", "msgothic.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf",
                "NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "malgun.ttf", "msyh.ttc", "DejaVuSans.ttf")
"""Fonts with more letters than Pillow's own, tried in this order where a text needs them."""


@dataclass(frozen=True)
class Cell:
    """A picture and the words above it."""

    picture: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Cells side by side under a title of their own."""

    cells: tuple[Cell, ...]
    title: str = ""


def strip(rows: Sequence[Row], title: str = "", scale: int | None = None, columns: int = 1) -> Image.Image:
    """Join rows of pictures into one picture, ``columns`` rows abreast.

    ``scale`` magnifies the pictures by a whole number, each pixel kept sharp; None chooses it so that the smallest
    has a side of 128 pixels at least. Texts are wrapped to the width of what they stand above.
    """
    from PIL import Image

    shortest = min(min(cell.picture.size) for row in rows for cell in row.cells)
    factor = scale or max(1, -(-128 // shortest))
    blocks = _abreast([_row(row, factor) for row in rows], columns)
    width = max(block.width for block in blocks)
    if title:
        blocks.insert(0, text_block(title, width, 18, INK))
    height = sum(block.height for block in blocks) + GAP * (len(blocks) + 1)
    sheet = Image.new("RGB", (width + 2 * GAP, height), BACKGROUND)
    top = GAP
    for block in blocks:
        sheet.paste(block, (GAP, top))
        top += block.height + GAP
    return sheet


def _abreast(blocks: list[Image.Image], columns: int) -> list[Image.Image]:
    """Set each ``columns`` blocks side by side, at places that line up from one line to the next."""
    from PIL import Image

    if columns == 1:
        return blocks
    widest, space = max(block.width for block in blocks), 3 * GAP
    lines = []
    for start in range(0, len(blocks), columns):
        chosen = blocks[start:start + columns]
        width = min(columns, len(blocks)) * (widest + space) - space
        line = Image.new("RGB", (width, max(block.height for block in chosen)), BACKGROUND)
        for place, block in enumerate(chosen):
            line.paste(block, (place * (widest + space), 0))
        lines.append(line)
    return lines


def _row(row: Row, factor: int) -> Image.Image:
    from PIL import Image

    columns = [_cell(cell, factor) for cell in row.cells]
    pairs = list(zip(columns, row.cells, strict=True))
    captions = max(column.height - cell.picture.height * factor for column, cell in pairs)
    width = sum(column.width for column in columns) + GAP * (len(columns) - 1)
    title = text_block(row.title, width, 13, INK) if row.title else None
    top = 0 if title is None else title.height + GAP // 2
    height = top + captions + max(cell.picture.height * factor for cell in row.cells)
    block = Image.new("RGB", (width, height), BACKGROUND)
    if title is not None:
        block.paste(title, (0, 0))
    left = 0
    for column, cell in pairs:
        above = column.height - cell.picture.height * factor
        block.paste(column, (left, top + captions - above))
        left += column.width + GAP
    return block


def _cell(cell: Cell, factor: int) -> Image.Image:
    from PIL import Image

    width, height = cell.picture.width * factor, cell.picture.height * factor
    picture = cell.picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
    if not cell.caption:
        return picture
    caption = text_block(cell.caption, width, 12, FAINT)
    column = Image.new("RGB", (width, height + caption.height + 2), BACKGROUND)
    column.paste(caption, (0, 0))
    column.paste(picture, (0, caption.height + 2))
    return column


def text_block(text: str, width: int, size: int, ink: str) -> Image.Image:
    """A text as a picture of ``width`` pixels, in at most three lines."""
    from PIL import Image, ImageDraw

    font, text = font_for(text, size)
    lines = wrap(text, font, width)
    ascent = round(size * 1.3)
    block = Image.new("RGB", (width, ascent * len(lines) + 2), BACKGROUND)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * ascent), line, fill=ink, font=font)
    return block


def wrap(text: str, font: Font, width: int, most: int = 3) -> list[str]:
    """Break a text into lines that fit ``width`` pixels; what does not fit ``most`` lines ends in an ellipsis."""
    average = max(1.0, font.getlength(text) / max(1, len(text)))
    lines = textwrap.wrap(text, max(4, int(width / average)), max_lines=most, placeholder=" ...") or [""]
    narrower = max(4, int(width / average) - 1)
    while narrower > 4 and any(font.getlength(line) > width for line in lines):
        lines = textwrap.wrap(text, narrower, max_lines=most, placeholder=" ...")
        narrower -= 1
    return lines


def font_for(text: str, size: int) -> tuple[Font, str]:
    """A font that can show the text, and the text with what no font at hand can show replaced by question marks."""
    own = _own_font(size)
    if text.isascii():
        return own, text
    for font in (own, *_system_fonts(size)):
        if _can_show(font, text):
            return font, text
    best = max((own, *_system_fonts(size)), key=lambda font: sum(_can_show(font, letter) for letter in set(text)))
    return best, "".join(letter if _can_show(best, letter) else "?" for letter in text)


@lru_cache(maxsize=16)
def _own_font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


@lru_cache(maxsize=16)
def _system_fonts(size: int) -> tuple[Any, ...]:
    from PIL import ImageFont

    found = []
    for name in (*SYSTEM_FONTS, *_library_fonts()):
        try:
            found.append(ImageFont.truetype(name, size))
        except (OSError, ImportError):
            continue
    return tuple(found)


def _library_fonts() -> list[str]:
    """The font that matplotlib brings, found without importing matplotlib: Latin, Greek and Cyrillic letters."""
    import importlib.util

    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        return []
    return [str(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")]


def _can_show(font: Any, text: str) -> bool:
    """Whether every letter has a shape of its own in the font (a missing one looks as an unassigned code does)."""
    from PIL import ImageFont

    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = bytes(font.getmask("\U0010fffe"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in set(text))
