"""Block weights (``--lbws``): one factor a block of a U-Net, in the lists of 12, 17, 20 or 26 numbers that UIs use.

Places are counted as the UIs do: 0 text encoders (BASE), 1..12 IN00..IN11, 13 MID, 14..25 OUT00..OUT11. A list holds the
numbers of the places in its row of ``PLACES``; blocks outside it keep the factor 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from library.util.records import Problem, UserError
from library.util.said import say

PLACES: dict[int, tuple[int, ...]] = {
    12: (0, 5, 6, 8, 9, 13, *range(14, 20)),
    17: (0, 2, 3, 5, 6, 8, 9, 13, *range(17, 26)),
    20: (*range(10), 13, *range(14, 23)),
    26: tuple(range(26)),
}
"""Length of a list -> the places its numbers stand for: SDXL (12, 20: attention, all), SD (17, 26)."""

_SD = re.compile(r"(up|down)_blocks_(\d+)_(resnets|attentions|upsamplers|downsamplers)_(\d+)_")
_SDXL = re.compile(r"(input_blocks|output_blocks)_(\d+)_")


def place_of(stem: str) -> int | None:
    """Place of a module by its kohya name, of either spelling of the U-Net; None where it has none."""
    if "text_model_" in stem:
        return 0
    if "mid_block_" in stem or "middle_block_" in stem:
        return 13
    if found := _SD.search(stem):
        side, level, kind, number = found[1], int(found[2]), found[3], int(found[4])
        return (2 if side == "down" else 14) + 3 * level + (2 if kind.endswith("samplers") else number)
    if found := _SDXL.search(stem):
        return int(found[2]) + (1 if found[1] == "input_blocks" else 14)
    return None


def parse(texts: Sequence[str]) -> list[Callable[[str], float]]:
    """``--lbws`` (JSON lists) -> for each file, the factor of a module by its name.

    Raises UserError where a list cannot be read, or the lists are not of one of the known lengths.
    """
    problems, lists = [], []
    for text in texts:
        try:
            numbers = [float(n) for n in json.loads(text)]
        except (ValueError, TypeError):
            problems.append(Problem(f"--lbws {text}", "This is not a list of numbers.",
                                    'Write it as "[1,0,0.5,...]", in quotes.'))
            continue
        if len(numbers) not in PLACES:
            problems.append(Problem(f"--lbws {text}", say("The list has {numbers} numbers.", numbers=len(numbers)),
                                    say("Give {value} (12 and 20 for SDXL, 17 and 26 for SD).", value=', '.join(map(str, PLACES)))))
        lists.append(numbers)
    if problems:
        raise UserError(*problems)
    return [_factor(dict(zip(PLACES[len(numbers)], numbers, strict=True))) for numbers in lists]


def _factor(by_place: dict[int, float]) -> Callable[[str], float]:
    return lambda stem: by_place.get(place_of(stem), 1.0)
