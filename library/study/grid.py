"""A grid of pictures over up to three axes: drawn with each file loaded once and as many pictures at a time as go together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from library.sample.images import generate
from library.sample.jobs import fill
from library.sample.loras import hung
from library.sample.prompts import PromptLine
from library.study.axes import Axis, Cell, Given, cells, with_tags
from library.study.drawing import Drawing
from library.study.likeness import Embedder, apart, latents
from library.util.said import say

if TYPE_CHECKING:
    from PIL import Image

Place = tuple[int, int, int]
"""(z, y, x)."""


@dataclass(frozen=True)
class Plan:
    """What a grid is to show."""

    base: Cell
    z: Axis
    y: Axis
    x: Axis
    given: Given
    batch: int = 1
    """Pictures in a cell, with seeds that follow one another."""

    def cells(self) -> dict[Place, Cell]:
        """Every cell of the grid; LoRAs that stand in prompts are taken out of the words."""
        found = cells(self.base, (self.z, self.y, self.x))
        return {place: with_tags(cell, self.given) for place, cell in found.items()}  # type: ignore[misc]


@dataclass(frozen=True)
class Score:
    """Figures of a cell, over its pictures."""

    distance: float
    """Mean distance to the base model's picture of the same prompt and seed: 0 the same, about 1 nothing in common."""
    subject: float | None = None
    """Mean likeness (cosine) to the training pictures, by an embedding model."""
    caption: float | None = None
    """Mean likeness to the prompt."""


@dataclass(frozen=True)
class Shown:
    """A cell as it was drawn."""

    cell: Cell
    lines: tuple[PromptLine, ...]
    """One for each of its pictures, everything filled in."""
    pictures: tuple[Image.Image, ...]
    score: Score | None = None


@dataclass(frozen=True)
class Grid:
    """A drawn grid."""

    plan: Plan
    cells: dict[Place, Shown]
    suggested: Place | None = None
    why: str = ""
    """What the suggestion rests on."""


def draw(plan: Plan, drawing: Drawing, tell: Callable[[int, int], None] = lambda done, total: None) -> Grid:
    """Draw every cell; ``tell(done, total)`` is called as files are finished."""
    planned = plan.cells()
    lines = {place: _lines(plan, drawing, cell) for place, cell in planned.items()}
    groups: dict[tuple[tuple[Path, float], ...], list[Place]] = {}
    for place, cell in planned.items():
        groups.setdefault(cell.loras, []).append(place)
    shown: dict[Place, Shown] = {}
    total = sum(len(one) for one in lines.values())
    done = 0
    for loras, places in groups.items():
        together = list(dict.fromkeys(line for place in places for line in lines[place]))
        drawn = dict(zip(together, _generate(drawing, loras, together), strict=True))
        for place in places:
            shown[place] = Shown(planned[place], lines[place], tuple(drawn[line] for line in lines[place]))
            done += len(lines[place])
        tell(done, total)
    return Grid(plan, {place: shown[place] for place in planned})


def _lines(plan: Plan, drawing: Drawing, cell: Cell) -> tuple[PromptLine, ...]:
    seed = cell.line.seed if cell.line.seed is not None else 0
    return tuple(fill(drawing.family, replace(cell.line, seed=seed + number), drawing.options)
                 for number in range(plan.batch))


def _generate(drawing: Drawing, loras: Sequence[tuple[Path, float]], lines: Sequence[PromptLine]) -> list[Image.Image]:
    with hung(drawing.family, drawing.parts, loras, drawing.options.device) as networks:
        options = replace(drawing.options, modules=tuple(networks))
        return generate(drawing.family, drawing.parts, lines, options)


# -------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Judge:
    """What cells are measured with."""

    embedder: Embedder | None = None
    training: tuple[Image.Image, ...] = ()


def scored(grid: Grid, drawing: Drawing, judge: Judge | None = None) -> Grid:
    """The same grid with every cell measured and one suggested."""
    judge = judge or Judge()
    lines = list(dict.fromkeys(line for one in grid.cells.values() for line in one.lines))
    base = dict(zip(lines, _latents(drawing, _generate(drawing, (), lines)), strict=True))
    subject = judge.embedder.pictures(judge.training) if judge.embedder and judge.training else None
    found = {}
    for place, one in grid.cells.items():
        own = _latents(drawing, one.pictures)
        distance = statistics.mean(apart(mine, base[line]) for mine, line in zip(own, one.lines, strict=True))
        likeness: list[float | None] = [None, None]
        if judge.embedder is not None:
            vectors = judge.embedder.pictures(one.pictures)
            if subject is not None:
                likeness[0] = float((vectors @ subject.T).mean())
            likeness[1] = float((vectors * judge.embedder.words([line.prompt for line in one.lines])).sum(-1).mean())
        found[place] = replace(one, score=Score(distance, *likeness))
    place, why = suggest({place: one.score for place, one in found.items() if one.score is not None})
    return replace(grid, cells=found, suggested=place, why=why)


def _latents(drawing: Drawing, pictures: Sequence[Image.Image]) -> list:
    return latents(drawing.family, drawing.parts, pictures, drawing.options.device)


NEARLY_ALL = 0.9
"""Share of the largest change at which a weaker setting already shows what the strongest does."""
RUINED = 1.1
"""Distance to the base beyond that of two pictures that have nothing in common: the picture itself is breaking up."""


def suggest(scores: dict[Place, Score]) -> tuple[Place | None, str]:
    """The cell to look at first, and what that rests on.

    With an embedding model the most like the training pictures and the prompt; else the one that differs least from
    the base model among those that show nearly all of the change.
    """
    changed = {place: score for place, score in scores.items() if score.distance > 0}
    if len(changed) < 2:
        return None, ""
    if all(score.subject is not None for score in changed.values()):
        best = max(changed, key=lambda place: (changed[place].subject or 0) + (changed[place].caption or 0))
        return best, say("most like the training pictures and the prompt")
    sound = {place: score for place, score in changed.items() if score.distance <= RUINED} or changed
    most = max(score.distance for score in sound.values())
    enough = [place for place, score in sound.items() if score.distance >= NEARLY_ALL * most]
    return (min(enough, key=lambda place: sound[place].distance),
            say("shows at least {part:.0%} of the largest change from the base model, and differs least of those", part=NEARLY_ALL))
