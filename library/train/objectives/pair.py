"""Matched pictures of a slider: both ends in one optimizer step, from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from library.sample.undisturbed import random_states_kept
from library.util.records import Batch, StepResult

from .denoise import masked_mean

if TYPE_CHECKING:
    from ..session import Session


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The positive and the negative pictures of a batch of pairs."""
    middle = len(batch) // 2

    def part(which: slice, strength: float | None) -> Batch:
        def cut(value):
            return None if value is None else value[which]

        cond = None if batch.cond is None else {key: value[which] for key, value in batch.cond.items()}
        return replace(
            batch, captions=batch.captions[which], weights_B=batch.weights_B[which], original_sizes=batch.original_sizes[which],
            crops=batch.crops[which], pixels_BCHW=cut(batch.pixels_BCHW), latents_BCHW=cut(batch.latents_BCHW), cond=cond,
            masks_B1HW=cut(batch.masks_B1HW), keys=batch.keys[which], attributes=batch.attributes[which], strength=strength,
            opposite=None, kind="pictures")

    return part(slice(None, middle), batch.strength), part(slice(middle, None), batch.opposite)


def paired(session: Session, batch: Batch) -> Iterator[StepResult]:
    """Denoise each picture at its strength; partners share noise and timestep, so what they have in common cancels.

    They also share what the VAE draws where pictures are encoded in the step.
    """
    positive, negative = halves(batch)
    with random_states_kept():
        above = session.latents(positive)
    below = session.latents(negative)
    first = session.add_noise(above)
    second = session.mixed(below, first.noise_BCHW, first.timesteps_B)
    for side, latents, noised in ((positive, above, first), (negative, below, second)):
        with session.multiplier(side.strength):
            prediction = session.predict(noised, session.cond(side))
            target = session.target(latents, noised)
            loss_BCHW = session.distance(prediction.float(), target.float(), noised.timesteps_B)
            per_item_B = masked_mean(loss_BCHW, side.masks_B1HW) * session.weights(side, noised.timesteps_B)
            yield StepResult(per_item_B.mean() / 2, per_item_B.detach(), noised.timesteps_B)
