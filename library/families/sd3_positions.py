"""Which part of Stable Diffusion 3's table of positions a picture takes while training: the middle, or as flags ask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

BASE = 16
"""Positions that a picture of the trained resolution spans, whatever that resolution is."""
MARGIN = 1.5
"""The scaled table reaches so many times as far as a square picture, for tall and wide ones."""


class Asked(Protocol):
    """The family's options that concern positions."""

    pos_emb_random_crop_rate: float
    enable_scaled_pos_embed: bool
    resolutions: tuple[tuple[int, int], ...]


@contextmanager
def of_training(embed: Any, asked: Asked) -> Iterator[None]:
    """Within this context diffusers' ``PatchEmbed`` takes its positions as ``asked``: one draw for each batch."""
    import torch

    crops = asked.pos_emb_random_crop_rate > 0 and torch.rand(1).item() < asked.pos_emb_random_crop_rate
    if not crops and not asked.enable_scaled_pos_embed:
        yield
        return

    def taken(height: int, width: int) -> torch.Tensor:
        h, w = height // embed.patch_size, width // embed.patch_size
        table, side = embed.pos_embed, embed.pos_embed_max_size
        if asked.enable_scaled_pos_embed:
            sample = trained_side(h, w, [round(math.sqrt(a * b)) // 8 // embed.patch_size for a, b in asked.resolutions])
            side = int(MARGIN * sample)
            table = scaled_table(table.shape[-1], side, sample).to(table)
        return cut(table, side, (h, w), crops)

    embed.cropped_pos_embed = taken
    try:
        yield
    finally:
        del embed.cropped_pos_embed


def cut(table_1NC: torch.Tensor, side: int, size: tuple[int, int], at_random: bool) -> torch.Tensor:
    """The positions of a picture of ``size`` patches from a square table: its middle, or any place of it; 1,h*w,C."""
    import torch

    top, left = ((side - one) // 2 for one in size)
    if at_random:
        top, left = (int(torch.randint(0, side - one + 1, (1,))) for one in size)
    grid = table_1NC.reshape(1, side, side, -1)[:, top : top + size[0], left : left + size[1]]
    return grid.reshape(1, size[0] * size[1], -1)


def trained_side(height: int, width: int, sides: Sequence[int]) -> int:
    """The trained resolution, as side of a square in patches, to which a picture's size belongs by its area.

    The borders lie half-way between the areas. A picture that sticks out of that resolution's table has a side of its own.
    """
    known = sorted(set(sides)) or [round(math.sqrt(height * width))]
    borders = [(a * a + b * b) // 2 for a, b in pairwise(known)]
    found = next((side for side, border in zip(known, borders, strict=False) if height * width <= border), known[-1])
    return found if max(height, width) <= int(MARGIN * found) else max(height, width)


def scaled_table(width: int, grid: int, sample: int) -> torch.Tensor:
    """Sine and cosine positions 1,grid*grid,width of which the middle ``sample`` x ``sample`` run from 0 to ``BASE``."""
    import torch
    from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid

    places = (torch.arange(grid, dtype=torch.float32) - (grid - sample) / 2) * BASE / sample
    columns, rows = torch.meshgrid(places, places, indexing="xy")
    return get_2d_sincos_pos_embed_from_grid(width, torch.stack([columns, rows]))[None].float()
