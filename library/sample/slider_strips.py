"""A prompt at several strengths of the adapter, side by side in one picture (``--slider_sample_strengths``)."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from library.families.interface import Family, Parts
from library.sample.images import Drawn, Place, describe, file_name, generate, save_png
from library.sample.jobs import SampleOptions, fill
from library.sample.prompts import PromptLine
from library.sample.strips import Cell, Row, strip


def draw_strips(family: Family, parts: Parts, lines: Sequence[PromptLine], options: SampleOptions, place: Place,
                strengths: Sequence[float]) -> list[Drawn]:
    """One strip for each line, every picture of it from the same noise, the strength written above; kohya's file names.

    A line's own strength is left aside. All lines of one strength and size are drawn together.
    """
    folder = place.folder / "sample"
    folder.mkdir(parents=True, exist_ok=True)
    seeded = [replace(line, seed=random.SystemRandom().randrange(2**32) if line.seed is None else line.seed) for line in lines]
    swept = [replace(line, adapter_strength=strength) for line in seeded for strength in strengths]
    pictures = generate(family, parts, swept, options)
    drawn = []
    for number, line in enumerate(seeded):
        own = pictures[number * len(strengths):(number + 1) * len(strengths)]
        words = [f"{strength:+g}" if strength else "0" for strength in strengths]
        cells = tuple(Cell(picture, word) for picture, word in zip(own, words, strict=True))
        path = folder / file_name(place, line, time.localtime())
        save_png(strip([Row(cells, line.prompt)]), path, describe(fill(family, line, options)))
        drawn.append(Drawn(path, line, place.step, place.epoch))
    return drawn
