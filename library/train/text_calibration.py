"""What a finished text slider does of what its texts ask for, seen in pictures that stay latents, and the factor for alpha.

Prompts are drawn at several strengths, and with the two texts and the slider off, all from the same noise and with
guidance. How far the first move along the difference of the second is the slider's effect. Forward passes alone do not
tell it: on the shipped model they show half of a size slider's answer where drawn pictures have five sixths of the effect.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from .calibration import STRENGTHS, Response, within_bounds
from .guide import Group, Guide, drawn
from .validation import at_evaluation

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)
PICTURES = 16
"""Pictures at each strength and of each text, from other noise than those that were trained on."""


def measure(session: Session, guide: Guide) -> Response | None:
    """The response at ``STRENGTHS``, 1 = what the texts ask for; None where no pair asks for a way between two texts.

    The factor makes the mean of both ends the whole of it. Seeds of their own leave the run's random states alone.
    """
    log.info("drawing %d pictures, which are not kept, to measure the slider", PICTURES * (len(STRENGTHS) + 2))
    with at_evaluation(session.network):
        found = [_looked_at(session, guide, group) for group in guide.groups]
    size = float(sum(whole for _, whole in found))
    if not size:
        return None
    projections = [float(sum(moved[place] for moved, _ in found)) / size for place in range(len(STRENGTHS))]
    half = (projections[-1] - projections[0]) / 2
    return Response(tuple(projections), within_bounds(1 / half) if half else 1.0)


def _looked_at(session: Session, guide: Guide, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """(products of the pictures' movement with the asked one at ``STRENGTHS``, square of the asked one)."""
    pairs = [pair for pair in group.pairs if pair.start == pair.target and pair.amount]
    if not pairs:
        return torch.zeros(len(STRENGTHS)), torch.zeros(())
    rows = [pairs[place % len(pairs)] for place in range(-(-PICTURES // len(guide.groups)))]

    def pictures(texts: list[str], strength: float) -> torch.Tensor:
        return drawn(session, guide, group.size, texts, strength * group.strength, "calibration").float()

    positive = pictures([pair.positive for pair in rows], 0.0)
    negative = pictures([pair.negative for pair in rows], 0.0)
    wanted = torch.tensor([pair.amount for pair in rows]).view(-1, 1, 1, 1) * (positive - negative)
    answers = [pictures([pair.target for pair in rows], strength) for strength in STRENGTHS]
    base = answers[STRENGTHS.index(0.0)]
    return torch.stack([((answer - base) * wanted).sum() for answer in answers]), wanted.square().sum()
