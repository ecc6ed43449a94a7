"""What a finished slider does to drawn pictures at several strengths, and the factor that makes 1 its full effect.

A few prompts are drawn, in latents only, at both ends; how far that moves them along the axis between the ends that were
asked for gives the factor. It is folded into alpha, so the file stays an ordinary LoRA whose 1 is the asked effect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import log as ln
from typing import TYPE_CHECKING

from library.sample.images import draw_latents
from library.sample.jobs import SampleOptions
from library.sample.prompts import PromptLine
from library.sample.undisturbed import random_states_kept
from library.util.records import Batch, Cond

from .axis import Axis, between
from .seeds import derive, seed_everything

if TYPE_CHECKING:
    import torch

    from .session import Session

log = logging.getLogger(__name__)
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
WITH_ALPHA = ("networks.lora", "networks.lora_fa", "networks.loha")
"""Adapters whose every change of weight is proportional to the alpha in their file."""
PICTURES = 64
"""Pictures of each side that the axis is found from."""
LINES, STEPS = 6, 12
"""Pictures that are drawn at a strength, and their denoising steps."""
ROUNDS = 2
"""Corrections of the factor: the response is not quite a straight line."""
LEAST, MOST = 0.25, 8.0
"""The factor stays within these."""
FAINT = 0.05
"""A slider that does less than this part of what was asked has no direction to multiply."""


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
    """The strength at which half the way between the ends is asked for."""
    conds: Mapping[str, Cond] = field(default_factory=dict)
    """Texts of the lines that are encoded already."""


@dataclass(frozen=True)
class Response:
    """How far drawn pictures move along the slider's axis at each of ``STRENGTHS``; 1 = half the way between its ends."""

    projections: tuple[float, ...]
    factor: float
    """How many times what was trained strength 1 of the file is."""
    measured_at: float = 1.0
    """How many times what was trained strength 1 was when the projections were measured."""

    @property
    def linearity(self) -> float:
        """R2 of the projections against strength."""
        import numpy as np

        return float(np.corrcoef(STRENGTHS, self.projections)[0, 1] ** 2)

    @property
    def asymmetry(self) -> float:
        """How far the two ends lie apart in size, as a part of their distance."""
        low, high = self.projections[0], self.projections[-1]
        return abs(high + low) / abs(high - low)

    def metadata(self, alpha: float) -> dict[str, str]:
        """What the file says of it; ``alpha`` is the network's, which the file holds times the factor."""
        return {"ss_network_alpha": str(alpha * self.factor), "ss_slider_range": "-1,1",
                "ss_slider_factor": f"{self.factor:.4f}", "ss_slider_measured_at": f"{self.measured_at:.4f}",
                "ss_slider_linearity": f"{self.linearity:.4f}", "ss_slider_asymmetry": f"{self.asymmetry:.4f}",
                "ss_slider_response": ",".join(f"{s:g}:{p:.4f}" for s, p in zip(STRENGTHS, self.projections, strict=True))}


def measure(session: Session, sides: Sides) -> Response | None:
    """Draw ``sides.lines`` at several strengths, twice corrected; None, and a line in the log, where nothing can be told."""
    axis = between(sides.positive, sides.negative, sides.paired)
    if axis is None or not axis.certain:
        log.warning("slider: not calibrated, the two ends cannot be told apart from their latents%s; alpha stays as trained",
                    "" if axis is None else f" ({axis.certainty:.1f} standard errors)")
        return None
    factor, known = 1.0, [(0.0, 0.0)]
    for _ in range(ROUNDS):
        low, high = _drawn_at(session, sides, axis, (-factor, factor))
        known.append((factor, (high - low) / 2))
        if known[-1][1] < FAINT:
            log.warning("slider: not calibrated, it does %.0f %% of what was asked; alpha stays as trained", 100 * known[-1][1])
            return None
        factor = next_factor(known)
    places = _drawn_at(session, sides, axis, tuple(factor * strength for strength in STRENGTHS))
    middle = places[len(places) // 2]
    return Response(tuple(place - middle for place in places), factor, factor)


def next_factor(known: Sequence[tuple[float, float]]) -> float:
    """The factor at which the effect is 1, from (factor, effect): in proportion, then by a power law through the last two."""
    (before, little), (last, effect) = known[-2:]
    power = 1.0
    if little > 0 and abs(ln(last / before)) > 0.02:
        power = min(2.0, max(0.5, ln(effect / little) / ln(last / before)))
    return within_bounds(last * effect ** (-1 / power))


def within_bounds(factor: float) -> float:
    """The factor, kept between ``LEAST`` and ``MOST``; 1 for one that is no positive number."""
    return min(MOST, max(LEAST, factor)) if factor > 0 else 1.0


def _drawn_at(session: Session, sides: Sides, axis: Axis, strengths: Sequence[float]) -> list[float]:
    """Mean place along the axis of the lines' pictures at each strength, always from the same noise."""
    options = SampleOptions(schedule=session.schedule, device=session.device, autocast=session.precision.autocast,
                            modules=(session.network,), conds=sides.conds)
    found = []
    for strength in strengths:
        with session.multiplier(strength * sides.reach):
            found.append(float(axis.along(list(draw_latents(session.family, session.parts, sides.lines, options))).mean()))
    return found


def from_pictures(session: Session, batches: Iterable[Batch], prompts: Sequence[PromptLine], seed: int) -> Sides | None:
    """Both sides' training pictures; None for one side alone. Drawn are ``prompts`` if there are any, else captions."""
    import torch

    from .objectives.pair import halves

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
    return Sides(list(found[True].values()), list(found[False].values()), _lines(session, seen, prompts, seed, conds), paired,
                 (ends[0] - ends[1]) / 2, conds)


def _lines(session: Session, seen: Sequence[Batch], prompts: Sequence[PromptLine], seed: int,
           conds: Mapping[str, Cond]) -> list[PromptLine]:
    """``LINES`` prompts with noise of their own, of the first pictures' size."""
    if not prompts or not session.parts.text_encoders:
        captions = dict.fromkeys(caption for batch in seen for caption in batch.captions)
        # No text encoder, no empty prompt to be guided away from.
        prompts = [PromptLine(caption, scale=1.0 if conds else None) for caption in captions]
    height, width = seen[0].target_size
    chosen = [prompts[number * len(prompts) // LINES % len(prompts)] for number in range(LINES)]
    return [replace(line, width=width, height=height, steps=STEPS, sampler=None, adapter_strength=None,
                    seed=derive(seed, "calibration", number) % 2**32) for number, line in enumerate(chosen)]


def _cached(seen: Sequence[Batch]) -> dict[str, Cond]:
    """The captions' conditionings, where they are cached."""
    return {caption: {key: value[place:place + 1] for key, value in batch.cond.items()}
            for batch in seen if batch.cond is not None for place, caption in enumerate(batch.captions)}


def in_words(response: Response) -> Sequence[str]:
    """Lines for the log."""
    curve = ", ".join(f"{s:+g} {p:+.2f}" for s, p in zip(STRENGTHS, response.projections, strict=True))
    return (f"slider: strength 1 of the file is {response.factor:.2f} times what was trained; drawn pictures moved, at"
            f" {response.measured_at:.2f} times, by {curve} of what was asked (R2 {response.linearity:.3f}, asymmetry"
            f" {100 * response.asymmetry:.0f} %)",)
