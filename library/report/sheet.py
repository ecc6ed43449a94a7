"""A grid of pictures as one picture: words along its columns and rows, sheets one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.sample.strips import BACKGROUND, GAP, INK, text_block

if TYPE_CHECKING:
    from PIL import Image

MARK = "#d98e00"
SIDE = 128
"""Width of the words in front of a row, in pixels, at least."""


@dataclass(frozen=True)
class Sheet:
    """One table of cells: each cell holds one picture or several, which stand side by side."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Sequence[Image.Image]]]
    """[row][column][picture]."""
    marked: tuple[int, int] | None = None
    """(row, column) of the cell in a frame."""


def draw(sheets: Sequence[Sheet], title: str = "", scale: int | None = None) -> Image.Image:
    """Draw the sheets; ``scale`` magnifies pictures by a whole number, None so that the smallest has 96 pixels at least."""
    from PIL import Image

    shortest = min(min(p.size) for sheet in sheets for row in sheet.cells for cell in row for p in cell)
    factor = scale or max(1, -(-96 // shortest))
    blocks = [_sheet(sheet, factor) for sheet in sheets]
    width = max(block.width for block in blocks)
    if title:
        blocks.insert(0, text_block(title, width, 18, INK))
    whole = Image.new("RGB", (width + 2 * GAP, sum(block.height + GAP for block in blocks) + GAP), BACKGROUND)
    top = GAP
    for block in blocks:
        whole.paste(block, (GAP, top))
        top += block.height + GAP
    return whole


def _sheet(sheet: Sheet, factor: int) -> Image.Image:
    from PIL import Image

    cells = [[_mosaic(cell, factor) for cell in row] for row in sheet.cells]
    widths = [max(row[column].width for row in cells) for column in range(len(sheet.columns))]
    heights = [max(cell.height for cell in row) for row in cells]
    aside = max(SIDE, widths[0] // 2) if any(sheet.rows) else 0
    heads = [text_block(words, width, 13, INK) for words, width in zip(sheet.columns, widths, strict=True)]
    above = max(head.height for head in heads) if any(sheet.columns) else 0
    name = [text_block(sheet.title, aside + sum(widths) + GAP * len(widths), 15, INK)] if sheet.title else []
    start = name[0].height + GAP // 2 if name else 0
    size = (aside + sum(widths) + GAP * len(widths), start + above + sum(heights) + GAP * len(heights))
    block = Image.new("RGB", size, BACKGROUND)
    for words in name:
        block.paste(words, (0, 0))
    top = start + above + GAP // 2
    for number, row in enumerate(cells):
        if aside:
            block.paste(text_block(sheet.rows[number], aside - GAP, 13, INK), (0, top))
        left = aside + GAP // 2
        for column, cell in enumerate(row):
            if number == 0 and above:
                block.paste(heads[column], (left, start + above - heads[column].height))
            if sheet.marked == (number, column):
                block.paste(MARK, (left - 3, top - 3, left + cell.width + 3, top + cell.height + 3))
            block.paste(cell, (left, top))
            left += widths[column] + GAP
        top += heights[number] + GAP
    return block


def _mosaic(pictures: Sequence[Image.Image], factor: int) -> Image.Image:
    """The pictures of one cell in a block that is about square."""
    from PIL import Image

    grown = [p.convert("RGB").resize((p.width * factor, p.height * factor), Image.Resampling.NEAREST) for p in pictures]
    across = max(1, round(len(grown) ** 0.5 + 0.49))
    width, height = max(p.width for p in grown), max(p.height for p in grown)
    block = Image.new("RGB", (width * min(across, len(grown)), height * -(-len(grown) // across)), BACKGROUND)
    for place, picture in enumerate(grown):
        block.paste(picture, (width * (place % across), height * (place // across)))
    return block
