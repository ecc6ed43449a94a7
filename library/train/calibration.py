"""The factor that makes strength 1 of a finished slider its full effect, found by drawing and folded into alpha.

So the file stays an ordinary LoRA. Calibration trims: beyond ``LEAST`` and ``MOST``, or where more strength takes other
things along, it stops and says what to change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import log as ln

from .axis import between
from .measuring import Gauge, Sides
from .session import Session

log = logging.getLogger(__name__)
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
WITH_ALPHA = ("networks.lora", "networks.lora_fa", "networks.loha")
"""Adapters whose every change of weight is proportional to the alpha in their file."""
ROUNDS = 4
"""Factors that are tried at most."""
CLOSE = 0.06
"""How far the effect may be from 1."""
LEAST, MOST = 0.5, 2.0
"""The factor stays within these."""
MOST_ASIDE = 0.5
"""How far pictures may leave the axis where the factor is more than 1, in units of their spread without the slider."""
FAINT = 0.05
"""A slider that does less than this part of what was asked has no direction to multiply."""


@dataclass(frozen=True)
class Response:
    """How far drawn pictures move along the slider's axis at each of ``STRENGTHS`` of the file; 1 = what was asked."""

    projections: tuple[float, ...]
    factor: float
    """How many times what was trained strength 1 of the file is."""
    aside: float = 0.0
    """How far the pictures leave the axis at the ends, in units of their spread without the slider."""
    held_by: str = ""
    """What kept the factor from making the effect 1: ``bounds`` or ``aside``."""

    @property
    def effect(self) -> float:
        """Half the way between the two ends."""
        return (self.projections[-1] - self.projections[0]) / 2

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
                "ss_slider_factor": f"{self.factor:.4f}", "ss_slider_effect": f"{self.effect:.4f}",
                "ss_slider_linearity": f"{self.linearity:.4f}", "ss_slider_asymmetry": f"{self.asymmetry:.4f}",
                "ss_slider_aside": f"{self.aside:.4f}",
                "ss_slider_response": ",".join(f"{s:g}:{p:.4f}" for s, p in zip(STRENGTHS, self.projections, strict=True))}


def measure(session: Session, sides: Sides) -> Response | None:
    """Draw at several strengths and fit the factor; None, and a line in the log, where nothing can be told."""
    axis = between(sides.positive, sides.negative, sides.paired)
    if axis is None or not axis.certain:
        log.warning("slider: not calibrated, the two ends cannot be told apart from their latents%s; alpha stays as trained",
                    "" if axis is None else f" ({axis.certainty:.1f} standard errors)")
        return None
    gauge = Gauge(session, sides, axis)
    with session.without_dropout():
        gauge.make_sure()
        if gauge.effect(1.0) < FAINT:
            log.warning("slider: not calibrated, it does %.0f %% of what was asked; alpha stays as trained",
                        100 * gauge.effect(1.0))
            return None
        factor, held_by = fitted(gauge)
        projections = tuple(float(gauge.moved(factor * strength).mean()) for strength in STRENGTHS)
        return Response(projections, factor, gauge.aside(factor), held_by)


def fitted(gauge: Gauge) -> tuple[float, str]:
    """The factor at which the effect is 1, or the nearest that is allowed, and what held it (see ``Response.held_by``)."""
    known, most, held_by = [(0.0, 0.0)], MOST, ""
    factor = best = 1.0
    for _ in range(ROUNDS):
        if factor > 1 and gauge.aside(factor) > MOST_ASIDE:
            most, held_by = (max(1.0, best) * factor) ** 0.5, "aside"
            factor = most
            continue
        best = factor
        known.append((factor, gauge.effect(factor)))
        if abs(known[-1][1] - 1) <= CLOSE:
            return factor, ""
        wanted = next_factor(known)
        factor = min(most, max(LEAST, wanted))
        if abs(factor / best - 1) < 0.01:
            return best, held_by or ("" if LEAST < wanted < MOST else "bounds")
    return best, held_by


def next_factor(known: Sequence[tuple[float, float]]) -> float:
    """The factor at which the effect is 1, from (factor, effect): in proportion, then by a power law through the last two."""
    (before, little), (last, effect) = known[-2:]
    power = 1.0
    if little > 0 and effect > 0 and abs(ln(last / before)) > 0.02:
        power = min(2.0, max(0.5, ln(effect / little) / ln(last / before)))
    return last * max(effect, FAINT) ** (-1 / power)


REMEDIES = {
    "bounds": "the training did too little for a trim: train longer, at a higher rate or with more pictures",
    "aside": "more strength takes other things along: train longer at a lower rate, or with pictures that differ in less",
}


def in_words(response: Response) -> Sequence[str]:
    """Lines for the log."""
    curve = ", ".join(f"{s:+g} {p:+.2f}" for s, p in zip(STRENGTHS, response.projections, strict=True))
    lines = [f"slider: strength 1 of the file is {response.factor:.2f} times what was trained; drawn pictures move by {curve}"
             f" of what was asked (R2 {response.linearity:.3f}, asymmetry {100 * response.asymmetry:.0f} %, aside"
             f" {response.aside:.2f} of their spread)"]
    if response.held_by and response.effect < 1:
        lines.append(f"slider: 1 does {100 * response.effect:.0f} % of what was asked; {REMEDIES[response.held_by]}")
    elif response.held_by:
        lines.append(f"slider: 1 does {100 * response.effect:.0f} % of what was asked; use less of it, or train shorter")
    return lines
