"""What a finished slider does at several strengths, from forward passes, and the factor that makes 1 its full effect.

At strength +1 a slider shall answer best on the positive pictures and at -1 on the negative ones. The loss on them at
several multiples of their strength is close to a parabola; its minimum is the strength at which the pictures are met best.
That number is folded into alpha, so the file stays an ordinary LoRA whose 1 is that strength.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from library.sample.undisturbed import random_states_kept
from library.util.records import Batch

from .seeds import derive, seed_everything
from .validation import at_evaluation, fixed_timesteps

if TYPE_CHECKING:
    import torch

    from .session import Session

log = logging.getLogger(__name__)
STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
WITH_ALPHA = ("networks.lora", "networks.lora_fa", "networks.loha")
"""Adapters whose every change of weight is proportional to the alpha in their file."""
BATCHES = 16
"""Batches that are looked at."""
LEAST, MOST = 0.25, 4.0
"""The factor stays within these: beyond them a parabola through so near points is a guess."""


@dataclass(frozen=True)
class Response:
    """How far the model's answer moves along the slider's own axis at each of ``STRENGTHS``; 1 = half the way between its ends."""

    projections: tuple[float, ...]
    factor: float
    """How many times what was trained strength 1 of the file is."""

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
                "ss_slider_factor": f"{self.factor:.4f}", "ss_slider_linearity": f"{self.linearity:.4f}",
                "ss_slider_asymmetry": f"{self.asymmetry:.4f}",
                "ss_slider_response": ",".join(f"{s:g}:{p:.4f}" for s, p in zip(STRENGTHS, self.projections, strict=True))}


def within_bounds(factor: float) -> float:
    """The factor, kept between ``LEAST`` and ``MOST``; 1 for one that is no positive number."""
    return min(MOST, max(LEAST, factor)) if factor > 0 else 1.0


def best_multiple(losses: Sequence[float]) -> float:
    """The multiple at which a parabola through the losses at ``STRENGTHS`` is lowest; 1 where it has no minimum."""
    import numpy as np

    curve, slope, _ = np.polyfit(STRENGTHS, losses, 2)
    return within_bounds(float(-slope / (2 * curve))) if curve > 0 and slope < 0 else 1.0


def measure(session: Session, batches: Iterable[Batch], seed: int) -> Response | None:
    """Look at up to ``BATCHES`` batches at fixed timesteps; None where no batch has a strength. Nothing is disturbed."""
    import torch

    from .objectives.pair import halves

    schedule, found = session.schedule, []
    signed = (batch for batch in batches if batch.strength)
    try:
        with torch.no_grad(), random_states_kept(), at_evaluation(session.network):
            for number, batch in enumerate(islice(signed, BATCHES)):
                sides = halves(batch) if batch.opposite is not None else (batch,)
                for timestep in fixed_timesteps(schedule.first, schedule.last):
                    session.schedule = replace(schedule, first=timestep, last=timestep)
                    for side in sides:
                        seed_everything(derive(seed, "calibration", number, timestep))
                        found.append(_looked_at(session, side))
    finally:
        session.schedule = schedule
    if not found:
        return None
    projections, losses = (tuple(sum(column) / len(found) for column in zip(*rows, strict=True))
                           for rows in zip(*found, strict=True))
    return Response(projections, best_multiple(losses))


def _looked_at(session: Session, side: Batch) -> tuple[list[float], list[float]]:
    """(projections at the slider's ``STRENGTHS``, losses at these multiples of the side's own strength)."""
    latents = session.latents(side)
    noised = session.add_noise(latents)
    target = session.target(latents, noised).float()
    answers = list(_answers(session, side, noised))
    losses = [float(session.distance(answer, target, noised.timesteps_B).mean()) for answer in answers]
    if side.strength is not None and side.strength < 0:
        answers.reverse()
    axis = (answers[-1] - answers[0]) / 2
    size = float((axis * axis).sum()) or 1.0
    return [float(((answer - answers[len(answers) // 2]) * axis).sum()) / size for answer in answers], losses


def _answers(session: Session, side: Batch, noised) -> Iterator[torch.Tensor]:
    for multiple in STRENGTHS:
        with session.multiplier(multiple * (side.strength or 1.0)):
            yield session.predict(noised, session.cond(side)).float()


def in_words(response: Response) -> Sequence[str]:
    """Lines for the log."""
    curve = ", ".join(f"{s:+g} {p:+.2f}" for s, p in zip(STRENGTHS, response.projections, strict=True))
    return (f"slider response along its axis: {curve}",
            f"slider linearity R2 {response.linearity:.3f}, asymmetry {100 * response.asymmetry:.0f} %; strength 1 of the "
            f"file is {response.factor:.2f} times what was trained")
