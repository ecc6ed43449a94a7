"""What a slider does to drawn pictures: how far they move between its two ends, and how far aside.

A few pictures are drawn at several strengths from the same noise, in latents only. The axis between the ends comes from
the training pictures of both sides, or from what the base model draws under the two texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from library.sample.images import draw_latents
from library.sample.jobs import SampleOptions
from library.sample.prompts import PromptLine
from library.sample.undisturbed import random_states_kept
from library.util.records import Batch, Cond

from .axis import Axis, described
from .objectives.pair import halves
from .seeds import derive, seed_everything

if TYPE_CHECKING:
    import torch

    from library.config.run_config import PromptPair

    from .guide import Guide
    from .session import Session

PICTURES = 64
"""Pictures of each side that the axis is found from."""
TEXT_PICTURES = 16
"""Pictures of each end that the base model draws where texts tell the two apart."""
LINES, PORTION = 24, 12
"""Pictures that are drawn at a strength: at most, and how many at first."""
STEPS = 12
"""Their denoising steps."""
ENOUGH = 4
"""Sample prompts from which on no captions of training pictures are drawn: the slider has learned these. One of position, of
twelve pairs, moved theirs by 1.15 (standard error 0.08) and other prompts by 0.78 of what was asked."""
SURE = 0.05
"""Standard error of the effect, in parts of it, at which no more pictures are drawn."""


@dataclass(frozen=True)
class Sides:
    """What the axis is found from: latents CHW of both ends, and how to draw pictures that belong to neither."""

    positive: Sequence[torch.Tensor]
    negative: Sequence[torch.Tensor]
    lines: Sequence[PromptLine]
    """Of one size, each with a seed."""
    paired: bool = False
    """The pictures match one by one."""
    reach: float = 1.0
    """The strength at which ``asked`` is asked for."""
    asked: float = 1.0
    """In halves of the way between the ends."""
    conds: Mapping[str, Cond] = field(default_factory=dict)
    """Texts of the lines that are encoded already."""


@dataclass
class Gauge:
    """Descriptions of the lines' pictures, drawn when they are asked for and kept."""

    session: Session
    sides: Sides
    axis: Axis
    count: int = PORTION
    """How many of the lines are drawn."""
    found: dict[float, torch.Tensor] = field(default_factory=dict)
    """Strength -> NF of the first lines."""

    def at(self, strength: float) -> torch.Tensor:
        """What the first ``count`` pictures look like at a strength, NF."""
        import torch

        known = self.found.get(strength)
        start = 0 if known is None else len(known)
        if start < self.count:
            more = drawn_at(self.session, self.sides, self.sides.lines[start:self.count], strength)
            self.found[strength] = more if known is None else torch.cat([known, more])
        return self.found[strength][:self.count]

    def moved(self, strength: float) -> torch.Tensor:
        """How far each picture moves along the axis between strength 0 and this one, N; 1 = what was asked."""
        return (self.axis.along(self.at(strength)) - self.axis.along(self.at(0.0))) / self.sides.asked

    def both_ways(self, strength: float) -> torch.Tensor:
        """Half of each picture's movement from the negative of a strength to the strength, N."""
        return (self.axis.along(self.at(strength)) - self.axis.along(self.at(-strength))) / (2 * self.sides.asked)

    def effect(self, strength: float) -> float:
        """The mean of ``both_ways``."""
        return float(self.both_ways(strength).mean())

    def make_sure(self) -> None:
        """Draw more lines until the effect at 1 is known well enough, or there are none left."""
        self.count = min(PORTION, len(self.sides.lines))
        while self.count < len(self.sides.lines):
            effects_N = self.both_ways(1.0)
            if float(effects_N.std()) / self.count**0.5 <= SURE * abs(float(effects_N.mean())):
                return
            self.count = min(self.count + PORTION, len(self.sides.lines))

    def aside(self, strength: float) -> float:
        """How far the pictures on the whole leave the axis at either end, in units of their own spread at strength 0."""
        spread_F = self.at(0.0).std(0) + 1e-6
        way_F = self.axis.way_F / spread_F
        worst = 0.0
        for end in (strength, -strength):
            moved_F = (self.at(end) - self.at(0.0)).mean(0) / spread_F
            rest_F = moved_F - (moved_F @ way_F) / (way_F @ way_F) * way_F
            worst = max(worst, float(rest_F.square().mean().sqrt()))
        return worst


def drawn_at(session: Session, sides: Sides, lines: Sequence[PromptLine], strength: float) -> torch.Tensor:
    """Descriptions NF of these lines' pictures at a strength."""
    options = SampleOptions(schedule=session.schedule, device=session.device, autocast=session.precision.autocast,
                            modules=(session.network,), conds=sides.conds)
    with session.multiplier(strength * sides.reach):
        return described(list(draw_latents(session.family, session.parts, lines, options)))


def from_pictures(session: Session, batches: Iterable[Batch], prompts: Sequence[PromptLine], seed: int) -> Sides | None:
    """Both sides' training pictures; None for one side alone. Drawn are ``prompts``, and the captions where these are few."""
    import torch

    found: dict[bool, dict[str, torch.Tensor]] = {True: {}, False: {}}
    strengths: dict[bool, list[float]] = {True: [], False: []}
    seen: list[Batch] = []
    paired = False
    with torch.no_grad(), random_states_kept():
        seed_everything(derive(seed, "calibration"))
        for batch in islice((one for one in batches if one.strength), PICTURES):
            paired = batch.opposite is not None
            sides = halves(batch) if paired else (batch,)
            names = ["|".join(keys) for keys in zip(*(side.keys for side in sides), strict=True)]
            for side in sides:
                found[side.strength > 0].update(zip(names, session.latents(side).cpu(), strict=True))
                strengths[side.strength > 0].append(side.strength)
                seen.append(side)
    if not (strengths[True] and strengths[False]):
        return None
    ends = [sum(some) / len(some) for some in (strengths[True], strengths[False])]
    conds = _cached(seen)
    captions = dict.fromkeys(caption for batch in seen for caption in batch.captions)
    height, width = seen[0].target_size
    # No text encoder, no empty prompt to be guided away from.
    lines = _lines(list(captions), LINES, seed, [] if conds else prompts, 1.0 if conds else None)
    return Sides(list(found[True].values()), list(found[False].values()),
                 [replace(line, width=width, height=height) for line in lines], paired, (ends[0] - ends[1]) / 2, conds=conds)


def from_texts(session: Session, guide: Guide, prompts: Sequence[PromptLine], seed: int) -> Sides | None:
    """The base model's pictures under the two texts of the pairs; None where no pair has a way between two texts.

    Drawn are the targets, with the guidance of ``prompts``. Pairs of one size and strength count, those of which there are most.
    """
    groups = [replace(group, pairs=tuple(pair for pair in group.pairs if _has_way(pair))) for group in guide.groups]
    group = max(groups, key=lambda one: len(one.pairs))
    if not group.pairs:
        return None
    scale = next((line.scale for line in prompts if line.scale is not None), None)
    width, height = group.size
    rows = [group.pairs[number % len(group.pairs)] for number in range(TEXT_PICTURES)]

    def ends(name: str) -> list[torch.Tensor]:
        lines = _lines([getattr(pair, name) for pair in rows], TEXT_PICTURES, seed + 1, scale=scale)
        return _drawn(session, [replace(line, width=width, height=height) for line in lines], guide.conds)

    lines = _lines([pair.target for pair in group.pairs], LINES, seed, scale=scale)
    asked = 2 * sum(pair.amount for pair in rows) / len(rows)
    return Sides(ends("positive"), ends("negative"), [replace(line, width=width, height=height) for line in lines], True,
                 group.strength, asked, guide.conds)


def _has_way(pair: PromptPair) -> bool:
    return pair.start == pair.target and bool(pair.amount)


def _drawn(session: Session, lines: Sequence[PromptLine], conds: Mapping[str, Cond]) -> list[torch.Tensor]:
    """Latents of lines with the adapter off."""
    options = SampleOptions(schedule=session.schedule, device=session.device, autocast=session.precision.autocast,
                            modules=(session.network,), conds=conds)
    with session.multiplier(0.0):
        return list(draw_latents(session.family, session.parts, lines, options).cpu())


def _lines(texts: Sequence[str], count: int, seed: int, prompts: Sequence[PromptLine] = (),
           scale: float | None = None) -> list[PromptLine]:
    """``count`` prompts with noise of their own: those of the user and, where these are few, texts at the same guidance."""
    if scale is None:
        scale = next((line.scale for line in prompts if line.scale is not None), None)
    chosen = [*prompts, *(PromptLine(text, scale=scale) for text in texts if len(prompts) < ENOUGH)]
    return [replace(chosen[number % len(chosen)], steps=STEPS, sampler=None, adapter_strength=None,
                    seed=derive(seed, "calibration", number) % 2**32) for number in range(count)]


def _cached(seen: Sequence[Batch]) -> dict[str, Cond]:
    """The captions' conditionings, where they are cached."""
    return {caption: {key: value[place:place + 1] for key, value in batch.cond.items()}
            for batch in seen if batch.cond is not None for place, caption in enumerate(batch.captions)}
