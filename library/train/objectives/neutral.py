"""What neutral pictures of a slider teach (``--slider_neutral``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from library.util.records import Batch, StepResult

from .denoise import denoise, masked_mean

if TYPE_CHECKING:
    from ..session import Session


@dataclass(frozen=True)
class Ends:
    """The slider's two ends."""

    positive: float = 1.0
    negative: float = -1.0


def at_full_strength(session: Session, batch: Batch) -> Iterator[StepResult]:
    """``plain``: train neutral pictures as any others, with the adapter at 1."""
    return denoise(session, replace(batch, strength=1.0))


def anchored(ends: Ends, session: Session, batch: Batch) -> Iterator[StepResult]:
    """``anchor``: on neutral pictures either end must answer what the base model answers; one part for each end.

    Both ends share noise and timesteps, so that what pulls at one of them and pushes at the other cancels.
    """
    noised = session.add_noise(session.latents(batch))
    with torch.no_grad(), session.multiplier(0.0):
        base = session.predict(noised, session.cond(batch)).float()
    for strength in (ends.positive, ends.negative):
        with session.multiplier(strength):
            prediction = session.predict(noised, session.cond(batch))
            loss_BCHW = session.distance(prediction.float(), base, noised.timesteps_B)
            per_item_B = masked_mean(loss_BCHW, batch.masks_B1HW) * session.weights(batch, noised.timesteps_B)
            yield StepResult(per_item_B.mean() / 2, per_item_B.detach(), noised.timesteps_B)
