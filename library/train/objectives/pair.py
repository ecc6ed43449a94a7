"""Matched pictures of a slider: both ends in one optimizer step, from the same noise (``--slider_pair_goal``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from library.diffusion.schedule import Noised
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


@dataclass(frozen=True)
class Side:
    """The pictures of one end, noised."""

    batch: Batch
    latents_BCHW: torch.Tensor
    noised: Noised


def noised_alike(session: Session, batch: Batch) -> tuple[Side, Side]:
    """Both ends, partners with the same noise and timestep, and with the same draw of the VAE where it encodes in the step."""
    positive, negative = halves(batch)
    with random_states_kept():
        above = session.latents(positive)
    below = session.latents(negative)
    first = session.add_noise(above)
    return Side(positive, above, first), Side(negative, below, session.mixed(below, first.noise_BCHW, first.timesteps_B))


def paired(session: Session, batch: Batch) -> Iterator[StepResult]:
    """``pictures``: denoise each picture at its strength; what the two have in common cancels."""
    for side in noised_alike(session, batch):
        with session.multiplier(side.batch.strength):
            answer = session.predict(side.noised, session.cond(side.batch))
            yield _part(session, side, answer, session.target(side.latents_BCHW, side.noised))


def changed(session: Session, batch: Batch) -> Iterator[StepResult]:
    """``change``: from the base model's own answer to a picture, go the way that leads from one partner to the other.

    Half of it at either end. Each picture is tried at one end, drawn anew, its partner at the other. Nothing but their
    difference is asked for, so that it is learned in a fraction of the steps, and the ends are opposites. Pictures whose names
    do not match differ in everything and are denoised instead. Needs errors that count in the clean picture (``scale_free``).
    """
    if [Path(key).stem for key in batch.keys[:len(batch) // 2]] != [Path(key).stem for key in batch.keys[len(batch) // 2:]]:
        yield from paired(session, batch)
        return
    sides = noised_alike(session, batch)
    strengths = [side.batch.strength for side in sides]
    way_BCHW = (sides[0].latents_BCHW - sides[1].latents_BCHW).float() / (strengths[0] - strengths[1])
    if torch.rand(()) < 0.5:
        strengths.reverse()
    for side, strength in zip(sides, strengths, strict=True):
        cond = session.cond(side.batch)
        with torch.no_grad(), session.multiplier(0.0):
            base = session.predict(side.noised, cond).float()
        with session.multiplier(strength):
            answer = session.predict(side.noised, cond)
            wanted = base + strength * session.schedule.moved(way_BCHW, side.noised.timesteps_B)
            yield _part(session, side, answer, session.schedule.compared(wanted, side.noised))


def _part(session: Session, side: Side, answer_BCHW: torch.Tensor, target_BCHW: torch.Tensor) -> StepResult:
    timesteps_B = side.noised.timesteps_B
    prediction = session.schedule.compared(answer_BCHW, side.noised)
    loss_BCHW = session.distance(prediction.float(), target_BCHW.float(), timesteps_B)
    per_item_B = masked_mean(loss_BCHW, side.batch.masks_B1HW) * session.weights(side.batch, timesteps_B)
    return StepResult(per_item_B.mean() / 2, per_item_B.detach(), timesteps_B)
