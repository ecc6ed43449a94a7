"""The first and the last pictures of a run, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from library.report.record import SampleLine
from library.sample.images import save_png
from library.sample.strips import Cell, Row, strip

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 12


def before_after(samples: Sequence[SampleLine], path: Path, title: str = "") -> Path | None:
    """Put each prompt's first and last picture side by side into one PNG.

    None where no prompt was drawn twice. Pictures that are gone meanwhile are passed over.
    """
    rows = [Row((_cell(first), _cell(last)), first.prompt) for first, last in pairs(samples)[:MOST_ROWS]]
    if not rows:
        return None
    save_png(strip(rows, title, columns=1 if len(rows) < 3 else 2), path)
    return path


def over_time(samples: Sequence[SampleLine], most: int = 8) -> list[tuple[str, Image.Image]]:
    """One strip for each prompt with its pictures over the run, at most ``most`` of them, first and last included."""
    return [(lines[0].prompt, strip([Row(tuple(_cell(line) for line in thin(lines, most)))]))
            for lines in by_prompt(samples)]


def pairs(samples: Sequence[SampleLine]) -> list[tuple[SampleLine, SampleLine]]:
    """(first, last) of every prompt that was drawn at two steps at least."""
    return [(lines[0], lines[-1]) for lines in by_prompt(samples) if lines[0].step != lines[-1].step]


def by_prompt(samples: Sequence[SampleLine]) -> list[list[SampleLine]]:
    """Samples of each prompt and strength in the order of their steps; pictures that are gone are left out."""
    groups: dict[tuple[int, str, float | None], list[SampleLine]] = {}
    for sample in samples:
        if sample.path.is_file():
            groups.setdefault((sample.index, sample.prompt, sample.strength), []).append(sample)
    in_order = sorted(groups.items(), key=lambda item: item[0][0])
    return [sorted(lines, key=lambda line: line.step) for _, lines in in_order]


def thin(lines: list[SampleLine], most: int) -> list[SampleLine]:
    """At most ``most`` of them, evenly spread."""
    if len(lines) <= most:
        return lines
    return [lines[round(number * (len(lines) - 1) / (most - 1))] for number in range(most)]


def when(sample: SampleLine) -> str:
    """``before training``, ``step 100``, ``epoch 2, step 200``."""
    if sample.step == 0:
        text = "before training"
    else:
        text = f"step {sample.step}" if sample.epoch is None else f"epoch {sample.epoch}, step {sample.step}"
    return text if sample.strength is None else f"{text}, strength {sample.strength:g}"


def _cell(sample: SampleLine) -> Cell:
    from PIL import Image

    with Image.open(sample.path) as picture:
        return Cell(picture.convert("RGB"), when(sample))
