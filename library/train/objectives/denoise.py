"""The usual objective: predict what was mixed into the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from library.util.records import Batch, StepResult

if TYPE_CHECKING:
    from ..session import Session


def masked_mean(loss_BCHW: torch.Tensor, masks_B1HW: torch.Tensor | None) -> torch.Tensor:
    """Mean over everything but the batch; masks (0..1, pixel resolution) are shrunk by area to the latents first."""
    if masks_B1HW is not None:
        masks = F.interpolate(masks_B1HW.to(loss_BCHW), size=loss_BCHW.shape[-2:], mode="area")
        loss_BCHW = loss_BCHW * masks
    return loss_BCHW.flatten(1).mean(1)


def denoise(session: Session, batch: Batch) -> Iterator[StepResult]:
    """Predict what was mixed into the pictures, at the strength that their batch has."""
    latents = session.latents(batch)
    with session.multiplier(batch.strength):
        cond = session.cond(batch)
        noised = session.add_noise(latents)
        prediction = session.schedule.compared(session.predict(noised, cond), noised)
        target = session.target(latents, noised)
        loss_BCHW = session.distance(prediction.float(), target.float(), noised.timesteps_B)
        per_item_B = masked_mean(loss_BCHW, batch.masks_B1HW)
        per_item_B = per_item_B * session.weights(batch, noised.timesteps_B)
        yield StepResult(per_item_B.mean(), per_item_B.detach(), noised.timesteps_B)
